"""A short soak, so that the long one is known to work when somebody needs it: `make soak MINUTES=30`."""

from __future__ import annotations

import re
import sys

import pytest

from tests.processes import run_command

pytestmark = pytest.mark.slow


def test_a_short_soak_finds_nothing() -> None:
    command = [sys.executable, "-m", "tests.soak", "--minutes", "0.25", "--workers", "1", "--runs", "3"]
    ended = run_command(command, within_s=280)
    told = ended.stdout + ended.stderr
    assert ended.returncode == 0, told
    assert "violations: 0" in told
    points = re.search(r"points checked against undisturbed runs: ([\d,]+)", told)
    assert points is not None, told
    assert int(points.group(1).replace(",", "")) > 1_000
