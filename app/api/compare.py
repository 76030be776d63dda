"""The comparison of runs: what differs, whether it is fair, what the seeds show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Query

from app import listing, series
from app.api.deps import Db
from app.compare import (
    Field,
    RunFacts,
    Sample,
    Statistics,
    Verdict,
    deltas,
    diff_specs,
    facts_of,
    judge,
)
from app.compare.explanation import say_note, say_unknown, say_verdict
from app.compare.facts import flatten
from app.compare.keys import KEYS
from app.compare.matching import Match, plan_match
from app.compare.metric import default_metric, measure_metric
from app.compare.sentences import label_groups, say_left_out, say_method, say_pair, say_result
from app.compare.statistics import Pair
from app.compare.words import ENGLISH, english_title
from app.errors import Invalid, NotFound

router = APIRouter(prefix="/api/v1", tags=["series"])

Json: TypeAlias = dict[str, Any]
MAX_RUNS = 200


@router.get("/compare", summary="What differs, is it fair, and what do the seeds show")
def compare_runs(
    db: Db,
    run: Annotated[list[str], Query(min_length=1, max_length=MAX_RUNS)],
    metric: Annotated[str | None, Query(max_length=200)] = None,
    at: Literal["best", "last"] = "last",
    group: Annotated[list[str], Query(max_length=8)] = [],  # noqa: B006
    baseline: Annotated[str | None, Query(max_length=50)] = None,
) -> Json:
    """Spec diff, fairness verdict and statistics over seeds of these runs.

    `group` names what is compared (`model`, `lr`, `model_options.activation`); by default the model where it differs,
    else the one setting that differs. `baseline`: a run whose group all others are compared with, whose settings
    `matched` takes, and from which `deltas` count; else every pair. `metric` is the validation accuracy by default,
    `at` its last or best value.

    `verdict.kind`: `single`, `identical`, `replicates` (only seeds differ), `controlled`, `confounded`, or `incomplete`
    (what is `unknown` cannot be checked yet). `matched` holds the specs to run for a fair comparison, where some are.
    """
    ids = list(dict.fromkeys(run))
    with db.read() as s:
        rows = listing.get_runs(s, ids)
        summaries = series.list_summaries(s, ids)
    facts = [facts_of(row) for row in rows]
    _check(ids, facts, group, baseline)
    names = {row.id: row.name for row in rows}
    verdict = judge(facts, group)
    diff = diff_specs(facts)
    asked = metric if metric is not None else default_metric(summaries)
    found = None if asked is None else measure_metric(facts, verdict, summaries, asked, at, baseline)
    return {
        "runs": [{"id": row.id, "name": row.name, "state": row.state, "kind": row.kind} for row in rows],
        "differences": [_field(field, baseline) for field in diff.differing],
        "partial": [_field(field, None) for field in diff.partial],
        "same": {field.field: next(iter(field.values.values())) for field in diff.same},
        "verdict": _verdict(verdict, names),
        "statistics": None if found is None else _statistics(found, names),
        "matched": _matched(plan_match(facts, verdict, baseline)),
    }


def _check(
    ids: Sequence[str], runs: Sequence[RunFacts], subject: Sequence[str], baseline: str | None
) -> None:
    """Raises: NotFound, Invalid."""
    there = {run.id for run in runs}
    missing = [run_id for run_id in ids if run_id not in there]
    if missing:
        raise NotFound(f"there is no run {missing[0]!r}", "run")
    if baseline is not None and baseline not in there:
        raise Invalid("the baseline must be one of the runs that are compared", "baseline")
    known = {*KEYS, "model_options"}.union(*(flatten(run.spec) for run in runs))
    for name in subject:
        if name not in known:
            raise Invalid(
                f"no run here has a setting {name!r}; name a field of the spec, such as lr", "group"
            )


def _field(field: Field, baseline: str | None) -> Json:
    """With how far each number is from the baseline's, where there is one."""
    found: Json = {"field": field.field, "title": english_title(field.field), "values": dict(field.values)}
    if baseline is not None:
        changes = deltas(field.values, baseline)
        found["deltas"] = {
            run: {"absolute": one.absolute, "relative": one.relative} for run, one in changes.items()
        }
    return found


def _verdict(verdict: Verdict, names: dict[str, str]) -> Json:
    return {
        "kind": verdict.kind,
        "text": say_verdict(verdict, ENGLISH),
        "subject": list(verdict.subject),
        "confounders": [
            {"key": one.key, "title": english_title(one.key), "values": dict(one.values)}
            for one in verdict.confounders
        ],
        "unknown": [
            {"key": one.key, "title": english_title(one.key), "runs": list(one.runs), "reason": one.reason}
            for one in verdict.unknown
        ],
        "unknown_text": say_unknown(verdict.unknown, names, ENGLISH),
        "notes": [
            {"kind": one.kind, "key": one.key, "values": dict(one.values), "text": say_note(one, ENGLISH)}
            for one in verdict.notes
        ],
    }


def _statistics(found: Statistics, names: dict[str, str]) -> Json:
    labels = label_groups([sample.group for sample in found.samples], ENGLISH, names)
    return {
        "metric": found.metric,
        "at": found.at,
        "better": found.direction,
        "unit": "points" if found.share else None,
        "text": say_result(found, labels, ENGLISH),
        "method": say_method(found, ENGLISH),
        "groups": [_sample(sample, label) for sample, label in zip(found.samples, labels, strict=True)],
        "pairs": [_pair(found, pair, labels) for pair in found.pairs],
        "left_out": [{"run": one.run, "reason": one.reason} for one in found.left_out],
        "left_out_text": say_left_out(found, names, ENGLISH),
    }


def _sample(sample: Sample, label: str) -> Json:
    return {
        "label": label,
        "subject": dict(sample.group.values),
        "runs": list(sample.group.runs),
        "seeds": list(sample.group.seeds),
        "n": sample.n,
        "mean": sample.mean,
        "std": sample.std,
        "values": list(sample.values),
    }


def _pair(found: Statistics, pair: Pair, labels: Sequence[str]) -> Json:
    tests: Json = {"welch": pair.p_welch, "permutation": None, "paired_sign_flip": None}
    for name, one in (("permutation", pair.permutation), ("paired_sign_flip", pair.paired)):
        if one is not None:
            tests[name] = {"p": one.p, "arrangements": one.arrangements, "exact": one.exact}
    return {
        "groups": [pair.first, pair.second],
        "difference": pair.difference,
        "interval": None
        if pair.low is None
        else {"low": pair.low, "high": pair.high, "method": pair.interval},
        "test": pair.test,
        "p": pair.p,
        "p_adjusted": pair.p_adjusted,
        "shown": pair.shown,
        "better": pair.better,
        "tests": tests,
        "effect_size": pair.effect,
        "seeds_needed": pair.seeds_needed,
        "detectable": pair.detectable,
        "text": say_pair(found, pair, labels, ENGLISH),
    }


def _matched(plan: Match) -> list[Json]:
    return [
        {
            "run": one.odd,
            "reference": one.reference,
            "spec": one.spec.model_dump(mode="json"),
            "changes": {key: {"from": old, "to": new} for key, (old, new) in one.changes.items()},
        }
        for one in plan.reruns
    ]
