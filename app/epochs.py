"""How long an epoch took runs like this one: the best answer to how long it will take."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from sqlmodel import Session, col, select

from app import series
from app.models import FINISHED, Run
from ml.catalog import DATASETS
from ml.sizes import count_images
from ml.spec import RunSpec

LOOKED_AT = 200  # the newest finished runs of the model and data set
ENOUGH = 5
SAME = ("model_options", "batch_size", "precision", "compile", "devices")  # what an image's time hangs on
EVALUATION_SHARE = 1 / 3  # of the time an image takes in training


class Measured(NamedTuple):
    seconds: float
    runs: int


def measure_epoch(s: Session, spec: RunSpec, device: str, threads: int) -> Measured | None:
    """Seconds of an epoch with its evaluation, the median over finished runs of this model and data set on such a slot.

    Runs with other numbers of images are scaled by them. None where no run tells.
    """
    query = (
        select(Run.id, Run.spec, Run.resolved)
        .where(col(Run.state) == FINISHED, col(Run.model) == spec.model, col(Run.dataset) == spec.dataset)
        .order_by(col(Run.id).desc())
        .limit(LOOKED_AT)
    )
    like = [
        (run_id, asked)
        for run_id, asked, resolved in s.exec(query)
        if _is_like(spec, asked, resolved, device, threads)
    ][:ENOUGH]
    ids = [run_id for run_id, _ in like]
    ends = series.read_blocks(s, ids, ["val/accuracy"])
    begins = series.read_blocks(s, ids, ["train/loss"], to_step=1)
    found = []
    for run_id, asked in like:
        begin, end = begins.get((run_id, "train/loss")), ends.get((run_id, "val/accuracy"))
        if begin is None or end is None or not len(begin.times) or not len(end.times):
            continue
        seconds = np.diff(
            np.concatenate([begin.times[:1], end.times])
        )  # a pause makes one long: hence the median
        found.append(float(np.median(seconds)) / _images(spec.dataset, asked))
    if not found:
        return None
    return Measured(median(found) * _images(spec.dataset, spec.model_dump()), len(found))


def _is_like(
    spec: RunSpec, asked: Mapping[str, Any], resolved: Mapping[str, Any], device: str, threads: int
) -> bool:
    where = str(resolved.get("device", "")).partition(":")[0]
    if where != device or (device == "cpu" and resolved.get("threads") != threads):
        return False
    wanted = spec.model_dump(mode="json")
    usual = {name: RunSpec.model_fields[name].get_default(call_default_factory=True) for name in SAME}
    return all(asked.get(name, usual[name]) == wanted[name] for name in SAME)


def _images(dataset: str, spec: Mapping[str, Any]) -> float:
    """What an epoch goes through, in training images: one that is evaluated counts as a third."""
    train, val = count_images(DATASETS[dataset], spec)
    return float(train + val * EVALUATION_SHARE)
