"""Pure functions over several runs: what differs, whether the comparison is fair, and what the seeds show.

`facts_of` turns rows into RunFacts, `diff_specs` gives the differing fields, `judge` the verdict. Nothing here reads a
database.
"""

from app.compare.diff import Delta, Field, SpecDiff, deltas, diff_specs, differing_fields
from app.compare.facts import Gap, RunFacts, facts_of, flatten, same
from app.compare.fairness import judge
from app.compare.verdict import Group, KeyValues, Note, Unknown, Verdict

__all__ = [
    "Delta",
    "Field",
    "Gap",
    "Group",
    "KeyValues",
    "Note",
    "RunFacts",
    "SpecDiff",
    "Unknown",
    "Verdict",
    "deltas",
    "diff_specs",
    "differing_fields",
    "facts_of",
    "flatten",
    "judge",
    "same",
]
