"""Thirty minutes of trouble: `python -m tests.soak [--minutes 30] [--database sqlite|postgres] [--seed 0]`.

Several workers train short runs, twenty under way at a time; every few seconds something is killed, hung, locked or
restarted; people pause, resume, cancel and delete. After every strike all runs are looked at, and each run that has
ended is compared with an undisturbed one, bit by bit. Exits with 1 on a violation and then leaves its files where they
are.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from app.errors import TrainyardError
from tests.faults.yard import LONG
from tests.soak.crowd import Crowd, Json
from tests.soak.grounds import SLOTS, Grounds, open_grounds
from tests.soak.inspector import Inspector
from tests.soak.strikes import ALONE, KINDS, Strike
from worker.slots import count_cores

STRIKE_S = (2.0, 8.0)  # from one strike to the next
RECOVER_S = 180.0  # so long may the stack take to mend one, while others fall on it
ENDING_S = 600.0  # after the last strike, for what is under way


def make_specs() -> list[Json]:
    """A few seconds each on one core, with several checkpoints; unlike in what a resume must bring back."""
    lenet: Json = {**LONG, "epochs": 16}
    resnet: Json = {**LONG, "model": "resnet8", "model_options": {}, "train_size": 128, "epochs": 8}
    return [
        *({**lenet, "seed": seed} for seed in range(4)),
        {**lenet, "optimizer": "adam", "lr": 0.001, "momentum": 0.0, "seed": 4},
        {**lenet, "schedule": "cosine", "batch_size": 24, "seed": 5},
        *({**resnet, "seed": seed} for seed in (6, 7)),
    ]


class Killer:
    """Strikes now and then, and follows each strike until all is well again."""

    def __init__(self, grounds: Grounds, seed: int) -> None:
        self.grounds, self.chance = grounds, random.Random(seed)
        self.open: list[tuple[str, float, Strike]] = []
        self.seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.failures: list[str] = []
        self.next_at = time.monotonic()

    def tick(self, *, strike: bool) -> Iterator[str]:
        """Go on with what was begun, and begin something new when it is time. Yields a line for each that is over."""
        if strike and time.monotonic() > self.next_at:
            self.next_at = time.monotonic() + self.chance.uniform(*STRIKE_S)
            self._begin()
        for kind, began, course in list(self.open):
            if time.monotonic() - began > RECOVER_S:
                self.open.remove((kind, began, course))
                self.failures.append(f"{kind}: not mended after {RECOVER_S:g} s")
                continue
            try:
                next(course)
            except StopIteration as over:
                self.open.remove((kind, began, course))
                if over.value is not None:
                    self.seconds[kind].append(over.value)
                    yield f"{kind}: {over.value:.2f} s"
            except AssertionError as error:
                self.open.remove((kind, began, course))
                self.failures.append(f"{kind}: {error}")

    def _begin(self) -> None:
        kind = self.chance.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
        if any(ALONE.get(kind, kind) == ALONE.get(other) for other, _, _ in self.open):
            return
        self.open.append((kind, time.monotonic(), KINDS[kind][1](self.grounds, self.chance)))


def soak(directory: Path, asked: argparse.Namespace) -> int:
    """How many violations there were."""
    specs = make_specs()[: asked.runs]
    with open_grounds(directory, asked.database, asked.workers) as grounds:
        crowd = Crowd(grounds.yard.web.url, specs, asked.seed, asked.runs)
        inspector, killer = Inspector(grounds, crowd), Killer(grounds, asked.seed)
        inspector.learn(specs, max(1, count_cores() // SLOTS))
        began = time.monotonic()
        crowd.start()
        try:
            trouble(killer, inspector, until=began + 60 * asked.minutes)
            crowd.leave()
            calm(killer, inspector)
            crowd.stop()
            inspector.finish()
        finally:
            crowd.stop()
        title = f"{asked.database}, {asked.workers} workers with {SLOTS} slots, seed {asked.seed}"
        print_table(killer, inspector, title, began)
        return len(inspector.violations)


def trouble(killer: Killer, inspector: Inspector, until: float) -> None:
    while time.monotonic() < until:
        step(killer, inspector, strike=True)


def calm(killer: Killer, inspector: Inspector) -> None:
    """Until every run has ended and was found in order."""
    until = time.monotonic() + ENDING_S
    while (killer.open or inspector.unfinished()) and time.monotonic() < until:
        step(killer, inspector, strike=False)
    for ticket in inspector.unfinished():
        told = "never submitted" if ticket.run_id is None else inspector.grounds.yard.describe(ticket.run_id)
        inspector.violate(f"not ended after {ENDING_S:g} s: {told}")


def step(killer: Killer, inspector: Inspector, *, strike: bool) -> None:
    time.sleep(0.1)
    for told in killer.tick(strike=strike):
        print(f"{time.strftime('%H:%M:%S')} {told}", flush=True)
        inspector.look()
    while killer.failures:
        inspector.violate(killer.failures.pop())
    inspector.take_complaints()
    try:
        inspector.settle()
    except TrainyardError:
        return  # the database is away


def print_table(killer: Killer, inspector: Inspector, title: str, began: float) -> None:
    print(f"\n## Soak: {(time.monotonic() - began) / 60:.0f} minutes, {title}\n")
    print(f"| {'strike':20} | {'times':>6} | {'recovered':>9} | {'median':>8} | {'max':>8} |")
    print(f"|{'-' * 22}|{'-' * 8}|{'-' * 11}|{'-' * 10}|{'-' * 10}|")
    for kind, seconds in killer.seconds.items():
        middle = f"{statistics.median(seconds):.2f} s" if seconds else "-"
        longest = f"{max(seconds):.2f} s" if seconds else "-"
        print(
            f"| {kind:20} | {killer.grounds.strikes[kind]:>6} | {len(seconds):>9} | {middle:>8} | {longest:>8} |"
        )
    ended = ", ".join(f"{count} {state}" for state, count in sorted(inspector.ended.items()))
    wishes = ", ".join(f"{count} x {wish}" for wish, count in sorted(inspector.crowd.asked.items()))
    attempts = inspector.attempts or [0]
    print(f"\nruns: {ended}; asked for: {wishes}")
    print(f"attempts: {sum(attempts)}, {max(attempts)} at most of one run")
    print(
        f"points checked against undisturbed runs: {inspector.points:,}; looks at runs under way: {inspector.looks:,}"
    )
    print(f"violations: {len(inspector.violations)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20, help="how many are under way at a time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was started is ended
    directory = Path(tempfile.mkdtemp(prefix="trainyard-soak-"))
    violations = soak(directory, args)
    if violations:
        print(f"files are left in {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
