"""Numbers, durations and settings as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.web.i18n import _

DASH = "–"


def percent(value: float | None) -> str:
    return DASH if value is None else _("{n} %").format(n=f"{value * 100:.2f}")


def number(value: float | None) -> str:
    """Four significant digits, without an exponent where a person would write none."""
    if value is None:
        return DASH
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{value:.3g}"


def setting(value: Any) -> str:
    """A field's value in a table."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return _("on") if value else _("off")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {setting(part)}" for name, part in value.items()) or DASH
    if isinstance(value, list):
        return ", ".join(setting(part) for part in value)[:500]
    return str(value)[:500]


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return DASH
    whole = max(0, round(seconds))
    if whole < 60:
        return _("{n} s").format(n=whole)
    if whole < 3600:
        return _("{min} min {s} s").format(min=whole // 60, s=whole % 60)
    if whole < 48 * 3600:
        return _("{h} h {min} min").format(h=whole // 3600, min=whole % 3600 // 60)
    return _("{d} d {h} h").format(d=whole // 86_400, h=whole % 86_400 // 3600)


def ago(at: float | None, now: float) -> str:
    if at is None:
        return DASH
    passed = max(0.0, now - at)
    if passed < 10:
        return _("just now")
    if passed < 60:
        return _("{n} s ago").format(n=int(passed))
    if passed < 3600:
        return _("{n} min ago").format(n=int(passed // 60))
    if passed < 86_400:
        return _("{n} h ago").format(n=int(passed // 3600))
    if passed < 30 * 86_400:
        return _("{n} d ago").format(n=int(passed // 86_400))
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def whole_percent(share: float | None) -> int | None:
    return None if share is None else math.floor(share * 100)
