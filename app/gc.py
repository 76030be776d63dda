"""Free space: `python -m app.gc [--yes]` (`trainyard gc` runs the same). Without --yes it only tells."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

from app.db import Database
from app.errors import Invalid, TrainyardError
from app.models import ENDED
from app.retention import Collector, Limits, Share
from app.settings import get_settings

KINDS = ("checkpoints", "weights", "logs", "predictions", "logits", "runs")


def main() -> int:
    asked = _parser().parse_args()
    settings = get_settings()
    os.umask(0o077)
    db = Database(settings.database_url, busy_timeout_s=60)
    try:
        db.ping()
        collector = Collector(db, settings, _limits(asked), really=asked.yes)
        shares = collector.collect()
        spare = _shrink(db, vacuum=asked.vacuum) if asked.yes else None
    except TrainyardError as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return 2 if isinstance(error, Invalid) else 1
    finally:
        db.dispose()
    _tell(shares, spare, asked)
    for note in collector.notes:
        print(f"trainyard: {note}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainyard gc", description=__doc__)
    parser.add_argument("--yes", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--vacuum", action="store_true")
    for name in KINDS:
        parser.add_argument(f"--{name}-older-than")
    parser.add_argument("--state", default="")
    return parser


def _limits(asked: argparse.Namespace) -> Limits:
    """Raises: Invalid, when a time or a state cannot be."""
    given: dict[str, Any] = {}
    for name in KINDS:
        if (text := getattr(asked, f"{name}_older_than")) is not None:
            given[f"{name}_days"] = read_days(text, f"--{name}-older-than")
    states = tuple(state for state in asked.state.split(",") if state)
    if wrong := set(states) - set(ENDED):
        raise Invalid(f"--state {', '.join(sorted(wrong))}: only {', '.join(ENDED)} runs can be deleted")
    if states and given.get("runs_days") is None:
        raise Invalid("--state says which runs --runs-older-than deletes; give that too")
    limits = Limits(**given)
    return replace(limits, states=states) if states else limits


def read_days(text: str, flag: str) -> float | None:
    """`90d`, `12h` or `2w` in days; `never` is None. Raises: Invalid."""
    if text == "never":
        return None
    unit = {"h": 1 / 24, "d": 1.0, "w": 7.0}.get(text[-1:])
    try:
        days = float(text[:-1]) * unit if unit else -1.0
    except ValueError:
        days = -1.0
    if not 0 <= days < 100_000:
        raise Invalid(f"{flag} {text!r} is no time; give one such as 12h, 90d, 2w or never")
    return days


def _shrink(db: Database, *, vacuum: bool) -> int:
    """Give freed pages back to the disk; how many bytes are free inside the SQLite file still."""
    if not db.is_sqlite:
        return 0
    with closing(sqlite3.connect(str(db.url.database), timeout=60, isolation_level=None)) as connection:
        if vacuum:
            connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [free] = connection.execute("PRAGMA freelist_count").fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
    return int(free) * int(size)


def _tell(shares: Sequence[Share], spare: int | None, asked: argparse.Namespace) -> None:
    total = sum(share.bytes for share in shares)
    if asked.json:
        told = {"deleted": asked.yes, "bytes": total, "kinds": [asdict(share) for share in shares]}
        print(json.dumps(told | ({"free_in_database": spare} if spare is not None else {}), indent=2))
        return
    for share in shares:
        print(f"{share.count:>8,}  {share.bytes / 1e6:>12,.1f} MB  {share.what}")
    print(f"{'freed' if asked.yes else 'could be freed':>8}: {total / 1e6:,.1f} MB")
    if spare is not None and spare > 10_000_000:
        print(
            f"{spare / 1e6:,.0f} MB inside the database wait to be used again; --vacuum gives them back to the disk"
        )
    if not asked.yes:
        print("Nothing was deleted; do it with --yes.")


if __name__ == "__main__":
    sys.exit(main())
