"""Pure functions over several runs: what differs, whether the comparison is fair, and what the seeds show.

`facts_of` turns rows into RunFacts, `diff_specs` gives the differing fields, `judge` the verdict, `measure` the
statistics. Nothing here reads a database.
"""

from app.compare.diff import Delta, Field, SpecDiff, deltas, diff_specs, differing_fields
from app.compare.facts import Gap, RunFacts, facts_of, flatten, same, spec_of
from app.compare.fairness import judge
from app.compare.resampling import Permuted
from app.compare.statistics import LeftOut, Pair, Sample, Statistics, measure
from app.compare.verdict import Group, KeyValues, Note, Unknown, Verdict

__all__ = [
    "Delta",
    "Field",
    "Gap",
    "Group",
    "KeyValues",
    "LeftOut",
    "Note",
    "Pair",
    "Permuted",
    "RunFacts",
    "Sample",
    "SpecDiff",
    "Statistics",
    "Unknown",
    "Verdict",
    "deltas",
    "diff_specs",
    "differing_fields",
    "facts_of",
    "flatten",
    "judge",
    "measure",
    "same",
    "spec_of",
]
