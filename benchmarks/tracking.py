"""What tracking costs the training loop: `python -m benchmarks.tracking`. Needs MNIST in TRAINYARD_DATASETS.

LeNet at batch 64 with one thread trains as in a trainer, every point, evaluation and checkpoint written to SQLite.
Steps of 5 ms differ by tens of percent from round to round on a shared machine, far more than what is measured. So the
instrument is timed itself: the time that the training thread spends on it, and the CPU that the reporter's thread
takes. Two whole loops, with and without tracking, are printed beside it, with their spread.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

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
from ml.tally import Tally
from ml.train import draw_order
from worker.job import Job
from worker.trainer import Trainer

CPU = torch.device("cpu")
TALLY_STEPS = 5_000


class Tracked(NamedTuple):
    """Seconds of one tracked run: the whole, on the training thread in `record`, CPU of the reporter's thread."""

    whole: float
    on_path: float
    reporter: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train-size", type=int, default=60_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    measure(args.rounds, args.train_size)


def measure(rounds: int, train_size: int) -> None:
    root = Path(os.environ.get("TRAINYARD_DATASETS", "datasets"))
    data = load_dataset("mnist", root)
    spec = RunSpec(
        train_size=train_size,
        val_size=10,
        epochs=1,
        lr=0.05,
        momentum=0.9,
        model_options={"activation": "relu"},
    )
    bare: list[float] = []
    tracked: list[Tracked] = []
    tally: list[float] = []
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as home:
        settings = Settings(data_dir=Path(home), datasets=root)
        migrate(settings.database_url)
        for number in range(rounds + 1):
            took = timed_bare(spec, data), timed_tracked(spec, settings), timed_tally()
            if number:  # the first round warms up
                bare.append(took[0])
                tracked.append(took[1])
                tally.append(took[2])
    steps = spec.total_steps
    heading(f"Tracking, LeNet at batch 64, {steps} steps a round")
    row("a whole step, nothing kept", [t / steps * 1e6 for t in bare], "us")
    row("a whole step, tracked", [t.whole / steps * 1e6 for t in tracked], "us")
    row("a step's numbers: accuracy, .item(), lists", [t / TALLY_STEPS * 1e6 for t in tally], "us")
    row("handing over and checkpoints, a step", [t.on_path / steps * 1e6 for t in tracked], "us")
    row("the reporter's thread, CPU a step", [t.reporter / steps * 1e6 for t in tracked], "us")
    each = list(zip(tally, tracked, bare, strict=True))
    both = [(a / TALLY_STEPS + t.on_path / steps) / (b / steps) * 100 for a, t, b in each]
    row("of the loop: numbers and handing over", both, "%", "< 1 %")
    row("of the loop: handing over", [t.on_path / b * 100 for _, t, b in each], "%")
    row("of another core: the reporter's thread", [t.reporter / t.whole * 100 for t in tracked], "%")


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


def timed_tally() -> float:
    """TALLY_STEPS times what `ml.train` does with a step's loss and logits, reports every 20 steps."""
    logits, y, loss = torch.randn(64, 10), torch.randint(10, (64,)), torch.tensor(2.3, requires_grad=True)
    tally = Tally(CPU, report_every_s=1e9)
    began = time.perf_counter()
    for step in range(1, TALLY_STEPS + 1):
        accuracy = (logits.detach().argmax(1) == y).float().mean()
        tally.add(step, torch.stack([loss.detach(), accuracy]), 0.1)
        if tally.due() or step % 20 == 0:
            list(tally.report())
    return time.perf_counter() - began


def timed_tracked(spec: RunSpec, settings: Settings) -> Tracked:
    db = Database(settings.database_url)
    with db.begin() as s:
        run, _ = runs.create_run(s, NewRun(spec), max_queued=10_000)
    with db.begin() as s:
        claimed = runs.claim_run(s, run.id, "benchmark", settings.lease_s)
    assert claimed is not None
    log = settings.runs_dir / run.id / "log"
    log.parent.mkdir(parents=True)
    job = Job(run.id, claimed.attempt, claimed.seq, [0], "benchmark", claimed.spec, None, str(log))
    trainer = Trainer(job, settings, threading.Event())
    trainer.reporter.start()
    reporter = next(thread for thread in threading.enumerate() if thread.name == "reporter")
    assert reporter.ident is not None
    clock = time.pthread_getcpuclockid(reporter.ident)
    events = trainer.events()
    trainer.record(next(events))
    began, cpu_before, on_path = time.perf_counter(), time.clock_gettime(clock), 0.0
    for event in events:
        entered = time.perf_counter()
        trainer.record(event)
        trainer.ask_for_snapshot()
        on_path += time.perf_counter() - entered
    whole = time.perf_counter() - began
    reporter_cpu = time.clock_gettime(clock) - cpu_before
    trainer.reporter.close()
    db.dispose()
    return Tracked(whole, on_path, reporter_cpu)


if __name__ == "__main__":
    main()
