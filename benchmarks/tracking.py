"""What tracking costs the training loop: `python -m benchmarks.tracking`.

LeNet at batch 64 with one thread, three ways in turn in one process: a loop that keeps nothing, `ml.train` whose events
are thrown away, and `ml.train` with every point, evaluation and checkpoint written to SQLite as a trainer does it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from app import runs
from app.db import Database
from app.migrate import migrate
from app.runs import NewRun
from app.settings import Settings
from benchmarks.table import heading, row
from ml.data import Split, load_dataset
from ml.schedules import learning_rate
from ml.setup import prepare
from ml.spec import RunSpec
from ml.train import draw_order, train
from worker.job import Job
from worker.trainer import Trainer

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--train-size", type=int, default=12_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(os.environ.get("TRAINYARD_DATASETS", "datasets"))
    data = load_dataset("mnist", root)
    spec = RunSpec(
        train_size=args.train_size,
        val_size=10,
        epochs=1,
        lr=0.05,
        momentum=0.9,
        model_options={"activation": "relu"},
    )
    bare: list[float] = []
    silent: list[float] = []
    tracked: list[float] = []
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as home:
        settings = Settings(data_dir=Path(home), datasets=root)
        migrate(settings.database_url)
        for number in range(args.rounds + 1):
            took = [timed_bare(spec, data), timed_silent(spec, data), timed_tracked(spec, settings)]
            if number:  # the first round warms up
                for column, value in zip((bare, silent, tracked), took, strict=True):
                    column.append(value / spec.total_steps * 1e6)
    heading(f"Tracking, LeNet at batch 64, {spec.total_steps} steps a round")
    row("a step, nothing kept", bare, "us")
    row("a step, ml.train", silent, "us")
    row("a step, ml.train and a trainer's reports", tracked, "us")
    pairs = zip(bare, silent, tracked, strict=True)
    shares = [((b / a - 1) * 100, (c / a - 1) * 100, (c / b - 1) * 100) for a, b, c in pairs]
    row("ml.train against nothing kept", [s[0] for s in shares], "%")
    row("reports against nothing kept", [s[1] for s in shares], "%", "< 1 %")
    row("reports against ml.train", [s[2] for s in shares], "%")


def timed_bare(spec: RunSpec, data: Split) -> float:
    """The loop of `ml.train` with no loss looked at."""
    torch.manual_seed(spec.seed)
    run = prepare(spec, data, CPU)
    run.model.train()
    order = draw_order(len(run.train_images))
    began = time.perf_counter()
    for step, first in enumerate(range(0, len(order), spec.batch_size)):
        batch = order[first : first + spec.batch_size]
        x, y = run.scale(run.train_images[batch]), run.train_labels[batch]
        lr = learning_rate(spec.schedule, spec.lr, step, spec.total_steps)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        loss = F.cross_entropy(run.model(x).float(), y)
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
    return time.perf_counter() - began


def timed_silent(spec: RunSpec, data: Split) -> float:
    events = train(spec, data, device=CPU)
    next(events)
    began = time.perf_counter()
    for _ in events:
        pass
    return time.perf_counter() - began


def timed_tracked(spec: RunSpec, settings: Settings) -> float:
    db = Database(settings.database_url)
    with db.begin() as s:
        run, _ = runs.create_run(s, NewRun(spec), max_queued=10_000)
    with db.begin() as s:
        claimed = runs.claim_run(s, run.id, "benchmark", settings.lease_s)
    assert claimed is not None
    log = settings.runs_dir / run.id / "log"
    log.parent.mkdir(parents=True)
    job = Job(run.id, claimed.attempt, claimed.seq, 0, "benchmark", claimed.spec, None, str(log))
    trainer = Trainer(job, settings, threading.Event())
    trainer.reporter.start()
    events = trainer.events()
    trainer.record(next(events))
    began = time.perf_counter()
    for event in events:
        trainer.record(event)
        trainer.ask_for_snapshot()
    took = time.perf_counter() - began
    trainer.reporter.close()
    db.dispose()
    return took


if __name__ == "__main__":
    main()
