"""The address of a page with charts: what it says, and what happens when it says nonsense."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from app.web.view import NAMES, Known, View, read_view

KNOWN = Known(["a", "b", "c"], ["train/loss", "val/loss"], {"model": "xyz", "lr": "xyz"})


def view(query: str, known: Known = KNOWN) -> View:
    return read_view(QueryParams(query), known)


def test_an_empty_address_is_the_usual_view() -> None:
    assert view("run=a&run=b") == View()


def test_everything_that_an_address_can_say() -> None:
    query = (
        "x=epoch&y=train/loss&y=val/loss&smooth=0.6&group=model&group=lr&band=ci95&members=1&log=val/loss&logx=1"
        "&hide=a&hide=b&full=val/loss&ylim=val/loss,0,1.5&zoom=-1.5,2e3&baseline=b&find=loss&closed=system"
    )
    assert view(query) == View(
        x="epoch",
        y=("train/loss", "val/loss"),
        smooth=0.6,
        group=("model", "lr"),
        band="ci95",
        members=True,
        log=("val/loss",),
        logx=True,
        hide=("a", "b"),
        full="val/loss",
        zoom=(-1.5, 2000.0),
        ylim=("val/loss,0,1.5",),
        baseline="b",
        find="loss",
        closed=("system",),
    )


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("x=furlongs", "furlongs"),
        ("smooth=1", "from 0 to 0.999"),
        ("smooth=nan", "nan"),
        ("smooth=a", "“a”"),
        ("group=colour", "colour"),
        ("band=wide", "wide"),
        ("members=yes", "yes"),
        ("full=train/lost", "train/lost"),
        ("zoom=5", "“5”"),
        ("zoom=5,1", "5,1"),
        ("zoom=1,inf", "1,inf"),
        ("ylim=val/loss,5", "val/loss,5"),
        ("hide=z", "“z”"),
        ("only=z", "“z”"),
        ("baseline=z", "“z”"),
        ("smoth=0.9", "smoth"),
    ],
)
def test_nonsense_is_named_and_falls_back(query: str, word: str) -> None:
    found = view(query)
    assert [word in notice for notice in found.notices] == [True]
    assert found == View(notices=found.notices, full=found.full)


def test_metrics_that_are_not_there_yet_stay_asked_for_beside_others() -> None:
    assert view("y=nonsense").y == ()
    assert view("y=nonsense&y=val/loss").y == ("nonsense", "val/loss")
    assert len(view("y=nonsense&y=val/loss").notices) == 1
    assert view("y=nonsense", Known()).notices == (), "without runs there is nothing to say about metrics"


def test_only_counts_more_than_hide() -> None:
    found = view("hide=a&only=b")
    assert (found.hide, found.only) == ((), ("b",))
    assert len(found.notices) == 1


@given(st.lists(st.tuples(st.sampled_from([*sorted(NAMES), "other"]), st.text(max_size=80)), max_size=12))
def test_no_address_breaks_the_page(pairs: list[tuple[str, str]]) -> None:
    found = read_view(QueryParams(urlencode(pairs, errors="replace")), KNOWN)
    assert found.x in ("step", "epoch", "samples", "time", "elapsed")
    assert 0 <= found.smooth <= 0.999
    assert {*found.hide, *found.only} <= {*KNOWN.runs}
    assert {*found.group} <= {*KNOWN.fields}
    assert all(len(notice) < 500 for notice in found.notices)
    assert "notices" not in found.as_data()
