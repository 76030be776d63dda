"""Run all checks, a JSON object a line as each is done: `python -m app.doctor`. `trainyard doctor` shows them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict

from app.doctor.datasets import check_datasets
from app.doctor.finding import Finding, problem
from app.doctor.services import check_broker, check_clock, check_server, check_workers
from app.doctor.storage import check_data_dir, check_database, check_disk
from app.doctor.training import check_gpu, check_packages, check_python
from app.settings import Settings, get_settings

CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    check_python,
    check_packages,
    check_data_dir,
    check_disk,
    check_database,
    check_broker,
    check_server,
    check_clock,
    check_workers,
    check_gpu,
    check_datasets,
)


def main() -> int:
    settings = get_settings()
    logging.disable()  # what goes wrong is told as a finding
    for check in CHECKS:
        for finding in examine(check, settings):
            print(json.dumps(asdict(finding)), flush=True)
    return 0


def examine(check: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    """What a check finds; that it could not be done is a finding, too."""
    try:
        yield from check(settings)
    except Exception as error:  # noqa: BLE001  any fault of a check must not hide what the others find
        found = f"could not be checked: {type(error).__name__}: {error}"
        yield problem(
            check.__name__.removeprefix("check_"), found, "please report this with `trainyard doctor --json`"
        )


if __name__ == "__main__":
    sys.exit(main())
