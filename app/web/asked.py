"""What the address of "What they got wrong" asks for, and addresses that ask for something else.

Its names begin with PREFIX, as the panel also stands on pages with an address of their own (static/js/wrong.js).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self, get_args
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from app.evaluations import At, read_at
from app.mistakes import Show

PREFIX = "wrong_"
CELL = "cell"  # of `show`: the images of one cell of a matrix


@dataclass(frozen=True)
class Asked:
    """A hand-edited address falls back to the defaults, field by field."""

    at: At = "last"
    a: str = ""
    b: str = ""
    show: str = ""
    share: bool = False  # cells in per cent of their class
    of: str = ""  # for CELL: the run, the true class and the answer
    truth: int = 0
    answer: int = 0
    first: int = 0  # image of the page

    @classmethod
    def read(cls, query: QueryParams, runs: Collection[str]) -> Self:
        """What `query` asks for; `runs` are the ids that it may name."""

        def text(name: str) -> str:
            return query.get(PREFIX + name, "")[:50]

        def whole(name: str) -> int:
            found = text(name)
            return int(found) if found.isascii() and found.isdecimal() and len(found) < 9 else 0

        def run(name: str) -> str:
            return text(name) if text(name) in runs else ""

        def cell() -> tuple[str, int, int] | None:
            """Of a cell's button `run.truth.answer`; else as links have it."""
            parts = query.get(PREFIX + "cell", "")[:60].split(".")
            if (
                len(parts) == 3
                and parts[0] in runs
                and all(re.fullmatch("[0-9]{1,8}", part) for part in parts[1:])
            ):
                return parts[0], int(parts[1]), int(parts[2])
            return (
                (run("of"), whole("truth"), whole("answer")) if text("show") == CELL and run("of") else None
            )

        at, show, chosen = read_at(text("at")), text("show"), cell()
        asked = cls(
            at="last" if at is None else at,
            a=run("a"),
            b=run("b"),
            show=show if show in get_args(Show) else "",
            share=text("share") == "1",
            first=whole("first"),
        )
        if chosen:
            return replace(asked, show=CELL, of=chosen[0], truth=chosen[1], answer=chosen[2])
        return asked

    def pairs(self) -> list[tuple[str, str]]:
        """As the address has it, without what is as usual."""
        usual = asdict(type(self)())
        return [
            (PREFIX + name, "1" if value is True else str(value))
            for name, value in asdict(self).items()
            if value != usual[name]
        ]


NAMES = (*(PREFIX + field.name for field in fields(Asked)), PREFIX + "cell")


@dataclass(frozen=True)
class Link:
    """Addresses of the page at `base` for these runs, with something changed."""

    base: str
    runs: list[str]
    asked: Asked

    def to(self, anchor: str, **changes: Any) -> str:
        asked = replace(self.asked, **changes)
        if asked.show != CELL:
            asked = replace(asked, of="", truth=0, answer=0)
        return f"{self._address(self.base, asked)}#{anchor}"

    def images(self, **changes: Any) -> str:
        return self.to("wrong-images", **changes)

    def cell(self, run_id: str, truth: int, answer: int) -> str:
        return self.images(show=CELL, of=run_id, truth=truth, answer=answer, first=0)

    def elsewhere(self, base: str) -> str:
        """The same choice on another page."""
        return self._address(base, self.asked)

    def _address(self, base: str, asked: Asked) -> str:
        return f"{base}?{urlencode([('run', run_id) for run_id in self.runs] + asked.pairs())}"
