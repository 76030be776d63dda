"""The runs page: orders, pages, columns, what is typed wrong, editing, many runs at once; in HTML and in Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page, expect
from sqlmodel import Session

from app import listing, runs
from app.briefs import BriefCache
from app.db import Database
from app.errors import Invalid
from app.listing import Filter
from app.models import MetricSummary
from tests.processes import Stack
from tests.test_browser import OpenPage, Watched, send, watch
from tests.test_pages import Site, http, site
from tests.test_query import RUNS, make_run

__all__ = ["http", "site", "watch"]  # fixtures of the other page tests

EACH = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SORTS = [
    "created",
    "name",
    "model",
    "experiment",
    "tag",
    "epoch",
    "lr",
    "spec.p",
    "val/accuracy",
    "train/loss.last",
    "metric.m.min",
    "started",
    "state",
    "duration",
]


# -- orders and pages -------------------------------------------------------------------------------------------------


def walk(s: Session, wanted: Filter, limit: int, mine: set[str]) -> list[str]:
    """The ids of all pages, one after the other, of the runs of this example."""
    seen, cursor = [], None
    while True:
        page = listing.list_page(s, wanted, limit=limit, cursor=cursor)
        seen += [run_id for run_id, _ in page.rows]
        cursor = page.older
        if cursor is None:
            return [run_id for run_id in seen if run_id in mine]


@pytest.mark.slow
@EACH
@given(
    rows=st.lists(RUNS, min_size=1, max_size=9),
    name=st.sampled_from(SORTS),
    falling=st.booleans(),
    limit=st.integers(1, 4),
)
def test_pages_hold_each_run_once_whatever_the_order(
    db: Database, rows: list[dict[str, Any]], name: str, falling: bool, limit: int
) -> None:
    with db.engine.connect() as connection, connection.begin() as transaction:
        s = Session(connection, expire_on_commit=False)
        mine = [make_run(s, **row) for row in rows]
        wanted = Filter(sort="-" * falling + name)
        whole = walk(s, wanted, 1000, set(mine))
        assert sorted(whole) == sorted(mine)
        assert walk(s, wanted, limit, set(mine)) == whole
        s.close()
        transaction.rollback()


@pytest.mark.slow
@EACH
@given(rows=st.lists(RUNS, min_size=2, max_size=9), name=st.sampled_from(SORTS), falling=st.booleans())
def test_back_from_any_page_is_where_one_came_from(
    db: Database, rows: list[dict[str, Any]], name: str, falling: bool
) -> None:
    with db.engine.connect() as connection, connection.begin() as transaction:
        s = Session(connection, expire_on_commit=False)
        for row in rows:
            make_run(s, **row)
        wanted, cursor, before = Filter(sort="-" * falling + name), None, None
        while True:
            page = listing.list_page(s, wanted, limit=2, cursor=cursor)
            assert (page.newer is None) == (before is None)
            if before is not None:
                back = listing.list_page(s, wanted, limit=2, cursor=page.newer)
                assert back.rows == before.rows
                assert back.older == before.older
            if page.older is None:
                break
            before, cursor = page, page.older
        s.close()
        transaction.rollback()


@pytest.mark.parametrize("name", ["val/accuracy", "lr", "experiment"])
@pytest.mark.parametrize("falling", [False, True])
def test_what_is_missing_comes_last_both_ways(db: Database, name: str, falling: bool) -> None:
    with db.begin() as s:
        bare = make_run(s, name="bare")
        for i in (2, 1, 3):
            make_run(
                s,
                name=f"run {i}",
                experiment=f"e{i}",
                spec={"lr": i},
                metrics={"val/accuracy": {"max": i / 4}},
            )
        ids = [run.name for run in listing.list_runs(s, Filter(sort="-" * falling + name), limit=9)[0]]
    assert ids == [*(["run 3", "run 2", "run 1"] if falling else ["run 1", "run 2", "run 3"]), "bare"]
    assert bare


def test_mixed_values_of_a_parameter_sort_numbers_before_text(db: Database) -> None:
    with db.begin() as s:
        for value in ("b", 10, None, 9, "a", 0.5, True, 10**400):
            make_run(s, name=str(value)[:5], spec={"p": value})
        names = [run.name for run in listing.list_runs(s, Filter(sort="spec.p"), limit=9)[0]]
    assert names == ["0.5", "9", "10", "10000", "a", "b", "True", "None"]


def test_deleted_runs_disturb_no_page(db: Database) -> None:
    with db.begin() as s:
        made = [make_run(s, name="same", spec={"lr": i // 3}, state="finished") for i in range(12)]
        wanted = Filter(sort="lr")
        first = listing.list_page(s, wanted, limit=5)
        for run_id, _ in first.rows[-2:]:
            runs.delete_run(s, run_id)  # the very run that the cursor names among them
        runs.delete_run(s, made[6])
        rest = listing.list_page(s, wanted, limit=20, cursor=first.older)
    assert [run_id for run_id, _ in rest.rows] == [made[5], *made[7:]]


@given(
    cursor=st.one_of(
        st.text(max_size=60), st.sampled_from(["W10", "bnVsbA", "WyItY3JlYXRlZCIsICI-IiwgTmFOXQ"])
    )
)
@EACH
def test_rubbish_is_no_cursor(db: Database, cursor: str) -> None:
    with db.read() as s, pytest.raises(Invalid) as refused:
        listing.list_page(s, Filter(sort="-lr"), limit=5, cursor=cursor)
    assert refused.value.field == "cursor"


def test_what_the_page_offers_comes_from_the_newest_runs(db: Database) -> None:
    with db.begin() as s:
        make_run(
            s,
            tags=["b", "a"],
            experiment="old",
            spec={"lr": 1, "my p": 2, 'odd"key': 3},
            metrics={"m": {"last": 1.0}},
        )
        make_run(s, tags=["a"], experiment="new", spec={"学": 1}, metrics={"val/loss": {"last": 1.0}})
        make_run(s, experiment="old")
        assert listing.list_recent_tags(s) == ["a", "b"]
        assert listing.list_recent_fields(s) == (['spec."my p"', "spec.学"], ["m", "val/loss"])
        assert listing.list_experiments(s) == [("old", 2), ("new", 1)]
        assert listing.count_runs(s, Filter(tag="a")) == 2
        assert listing.count_runs(s, Filter(tag="A")) == 0, "a structured filter is exact"


# -- briefs that are kept ---------------------------------------------------------------------------------------------


def test_a_kept_brief_is_told_until_the_run_changes(db: Database) -> None:
    cache = BriefCache()

    def told() -> list[bytes]:
        with db.read() as s:
            return cache.read(s, listing.list_page(s, Filter(), limit=10).rows)

    with db.begin() as s:
        run_id = make_run(s, name="one")
    (first,) = told()
    assert told() == [first]
    with db.begin() as s:
        runs.edit_run(s, run_id, name="two", notes=None, tags=None, experiment=None)
    assert b'"name":"two"' in told()[0]
    with db.begin() as s:
        s.add(MetricSummary(run_id=run_id, metric="m", count=1, nonfinite=0, last=1.5, last_step=1))
        runs.edit_run(s, run_id, name="three", notes=None, tags=None, experiment=None)
    assert b'"last":1.5' in told()[0]


def test_kept_briefs_are_bounded(db: Database) -> None:
    cache = BriefCache(max_bytes=3_000)
    with db.begin() as s:
        for i in range(12):
            make_run(s, name=f"run {i}")
        rows = listing.list_page(s, Filter(), limit=12).rows
        first = cache.read(s, rows)
        assert len(first) == 12
        assert cache._bytes <= 3_000
        assert cache.read(s, rows) == first


# -- the page, without JavaScript -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(site: Site) -> Iterator[dict[str, str]]:
    """Ids by name of four runs of one experiment."""
    with site.client() as client:
        made = {}
        for i, name in enumerate(["shelf a", "shelf b", "shelf c", "学习率 shelf d"]):
            body = {
                "external": True,
                "name": name,
                "experiment": "shelf",
                "params": {"lr": 0.1 * i, "my p": i},
                "tags": [f"t{i}"],
            }
            made[name] = client.post("/api/v1/runs", json=body).json()["id"]
            client.post(
                f"/api/v1/runs/{made[name]}/metrics",
                json={"step": [1, 2], "values": {"val/accuracy": [0.5, 0.9 - 0.1 * i]}},
            )
        yield made


def names(html: str) -> list[str]:
    return re.findall(r'data-run-link><bdi data-field="name">([^<]*)</bdi>', html)


def test_text_and_filters_go_together(http: httpx.Client, shelf: dict[str, str]) -> None:
    page = http.get("/", params={"experiment": "shelf", "q": "lr >= 0.1 NOT tag = t2"})
    assert page.status_code == 200
    assert names(page.text) == ["学习率 shelf d", "shelf b"]
    assert "2 of " in page.text
    assert names(http.get("/", params={"tag": "t1", "experiment": "shelf"}).text) == ["shelf b"]


def test_heads_sort_and_say_so(http: httpx.Client, shelf: dict[str, str]) -> None:
    page = http.get("/?experiment=shelf&sort=-val/accuracy").text
    assert names(page) == ["shelf a", "shelf b", "shelf c", "学习率 shelf d"]
    (head,) = re.findall(r'<th [^>]*aria-sort="descending"[^>]*><a href="([^"]*)"', page)
    assert "sort=val/accuracy.max" in head
    assert "experiment=shelf" in head
    back = http.get(head.replace("&amp;", "&")).text
    assert names(back)[0] == "学习率 shelf d"
    assert 'aria-sort="ascending"' in back


def test_columns_are_chosen_in_the_address(http: httpx.Client, shelf: dict[str, str]) -> None:
    page = http.get('/?experiment=shelf&cols=lr,val/accuracy.last&cols=spec."my p"').text
    assert re.findall(r"<th scope=\"col\"[^>]*><a [^>]*><span>([^<]*)<", page) == [
        "Name",
        "Learn. rate",
        "val/accuracy, last",
        "my p",
    ]
    assert "80.00 %" in page
    assert re.search(r'href="[^"]*cols=lr,val/accuracy.last,spec.%22my\+p%22[^"]*"', page), (
        "links keep the columns"
    )


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("sort=nonsense", "Sorted by the newest instead: there is no field nonsense"),
        ("cols=lr,nonsense", "A column is left out: there is no field nonsense"),
        ("state=x", "This filter is left out: there is no state"),
        ("cursor=rubbish", "From the first page on instead: the cursor is not one"),
        ("cursor=rubbish&sort=-zzz&state=y&cols=,,%00", "From the first page on instead"),
        ("q=lr+>+>", "at character 6: expected a value, found &gt;"),
        ("q=epoch+>+many", "epoch is compared with a number"),
        ("q=" + "x" * 1500, "longer than 1000 characters"),
        ("model=" + "x" * 500, "must have at most 200 characters"),
    ],
)
def test_a_hand_edited_address_is_told_and_shows_what_it_can(
    http: httpx.Client, shelf: dict[str, str], query: str, says: str
) -> None:
    page = http.get(f"/?experiment=shelf&{query}")
    assert page.status_code == 422
    assert says in page.text
    assert len(names(page.text)) == 4
    if query.startswith("q=lr"):
        assert 'value="lr &gt; &gt;"' in page.text, "what was typed stays"
        assert 'aria-invalid="true"' in page.text


@pytest.mark.parametrize(("name", "value"), [("q", "lr >"), ("sort", "zzz"), ("cursor", "x"), ("state", "y")])
def test_the_api_names_the_field(http: httpx.Client, name: str, value: str) -> None:
    answer = http.get("/api/v1/runs", params={name: value})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == name


@pytest.mark.slow
@EACH
@given(
    st.dictionaries(
        st.sampled_from(["q", "sort", "cols", "cursor", "state", "tag", "model", "text"]),
        st.text(max_size=30),
        max_size=4,
    )
)
def test_no_address_breaks_the_page(site: Site, address: dict[str, str]) -> None:
    with site.client() as client:
        assert client.get("/", params=address).status_code in (200, 422)


def test_any_name_that_a_script_makes_up_leaves_the_page_whole(http: httpx.Client) -> None:
    body = {"external": True, "name": "odd names", "params": {"my param": 1, "a.b": 2, 'say "x"': 3, "0": 4}}
    run = http.post("/api/v1/runs", json=body).json()["id"]
    names = ["m", "my metric", "a.b", "val/top 5", "last"]
    values = {name: [1.0] for name in names}
    http.post(f"/api/v1/runs/{run}/metrics", json={"step": [1], "values": values}).raise_for_status()
    page = http.get("/")
    assert page.status_code == 200
    for name in (
        "metric.m.last",
        "&#34;my metric&#34;.last",
        "&#34;a.b&#34;.last",
        "&#34;val/top 5&#34;.max",
    ):
        assert f'value="{name}"' in page.text
    chosen = http.get("/", params={"cols": 'metric.m.last,"val/top 5".max'})
    assert chosen.status_code == 200


def test_old_links_with_text_still_search(http: httpx.Client, shelf: dict[str, str]) -> None:
    assert names(http.get("/?text=shelf b").text) == ["shelf b"]


def test_tags_and_notes_are_edited_without_javascript(http: httpx.Client, shelf: dict[str, str]) -> None:
    run = shelf["shelf b"]
    assert f"/runs/{run}/edit" in http.get("/?experiment=shelf").text
    assert "shelf b" in http.get(f"/runs/{run}/edit").text
    wrong = http.post(f"/runs/{run}/edit", data={"name": "", "tags": "x" * 200, "notes": "kept"})
    assert wrong.status_code == 422
    assert "is required" in wrong.text
    assert "kept" in wrong.text
    saved = http.post(
        f"/runs/{run}/edit",
        data={"name": "shelf b", "tags": "t1, new", "notes": "a note", "experiment": "shelf"},
    )
    assert saved.status_code == 303
    row = http.get(f"/api/v1/runs/{run}").json()
    assert (row["tags"], row["notes"], row["experiment"]) == (["t1", "new"], "a note", "shelf")
    assert "a note" in http.get("/?experiment=shelf").text
    assert "a note" in http.get(f"/runs/{run}").text
    assert (
        http.post(f"/runs/{run}/edit", data={"name": "shelf b", "tags": "t1", "notes": ""}).status_code == 303
    )
    assert http.get(f"/api/v1/runs/{run}").json()["experiment"] is None
    http.patch(f"/api/v1/runs/{run}", json={"experiment": "shelf"})


# -- many at once -----------------------------------------------------------------------------------------------------


def test_bulk_does_what_it_can_and_says_what_not(http: httpx.Client) -> None:
    ids = [
        http.post("/api/v1/runs", json={"external": True, "name": f"bulk {i}"}).json()["id"] for i in range(3)
    ]
    http.post(f"/api/v1/runs/{ids[0]}/finish", json={})
    deleted = http.post("/api/v1/runs/bulk", json={"runs": [*ids, "gone", ids[0]], "action": "delete"}).json()
    assert deleted["done"] == [ids[0]]
    assert {failure["run"]: failure["code"] for failure in deleted["failed"]} == {
        ids[1]: "conflict",
        ids[2]: "conflict",
        "gone": "not_found",
    }
    assert "cancel it before you delete it" in deleted["failed"][0]["message"]
    tagged = http.post("/api/v1/runs/bulk", json={"runs": ids[1:], "action": "tag", "add": ["a", "b"]}).json()
    assert tagged == {"done": ids[1:], "failed": []}
    http.post("/api/v1/runs/bulk", json={"runs": ids[1:], "action": "tag", "add": ["c"], "remove": ["a"]})
    assert http.get(f"/api/v1/runs/{ids[1]}").json()["tags"] == ["b", "c"]
    canceled = http.post("/api/v1/runs/bulk", json={"runs": ids[1:], "action": "cancel"}).json()
    assert canceled["done"] == ids[1:]
    assert http.get(f"/api/v1/runs/{ids[2]}").json()["state"] == "canceled"
    again = http.post("/api/v1/runs/bulk", json={"runs": ids[1:], "action": "cancel"}).json()
    assert [failure["code"] for failure in again["failed"]] == ["conflict"] * 2


@pytest.mark.parametrize(
    "body",
    [
        {"runs": [], "action": "cancel"},
        {"runs": ["a"], "action": "explode"},
        {"runs": ["a"], "action": "tag"},
        {"runs": ["a"], "action": "delete", "add": ["x"]},
        {"runs": ["a"] * 1001, "action": "cancel"},
        {"action": "cancel"},
        {"runs": ["a\0"], "action": "cancel"},
        {"runs": ["a"], "action": "tag", "add": [""]},
    ],
)
def test_a_bulk_request_that_does_not_fit_changes_nothing(http: httpx.Client, body: dict[str, Any]) -> None:
    assert http.post("/api/v1/runs/bulk", json=body).status_code == 422


def test_too_many_tags_are_refused_for_that_run_alone(http: httpx.Client) -> None:
    full = http.post("/api/v1/runs", json={"external": True, "tags": [f"t{i}" for i in range(32)]}).json()[
        "id"
    ]
    free = http.post("/api/v1/runs", json={"external": True}).json()["id"]
    answer = http.post(
        "/api/v1/runs/bulk", json={"runs": [full, free], "action": "tag", "add": ["more"]}
    ).json()
    assert answer["done"] == [free]
    assert "at most 32" in answer["failed"][0]["message"]


def test_without_javascript_bulk_asks_first(http: httpx.Client) -> None:
    ids = [
        http.post("/api/v1/runs", json={"external": True, "name": f"plain {i}"}).json()["id"]
        for i in range(2)
    ]
    asked = http.get("/bulk", params={"action": "delete", "run": ids}).text
    assert "Delete these runs?" in asked
    assert "plain 1" in asked
    http.post(f"/api/v1/runs/{ids[0]}/finish", json={})
    done = http.post("/bulk", data={"action": "delete", "run": ids}).text
    assert "1 run is deleted." in done
    assert "plain 1" in done
    assert "cancel it before you delete it" in done
    assert http.post("/bulk", data={"action": "tag", "run": ids}).status_code == 422
    assert http.post("/bulk", data={"action": "explode", "run": ids}).status_code == 422
    assert http.get("/bulk?action=explode").status_code == 422


# -- the page in a browser --------------------------------------------------------------------------------------------


def add(stack: Stack, name: str, experiment: str) -> str:
    body = {"external": True, "name": name, "experiment": experiment}
    run: str = post(stack, "/api/v1/runs", body)["id"]
    return run


def post(stack: Stack, path: str, body: dict[str, Any]) -> Any:
    with stack.http as client:
        return client.post(path, json=body).raise_for_status().json()


def open_shelf(watched: Watched, stack: Stack, name: str, count: int) -> tuple[Page, list[str]]:
    ids = [add(stack, f"{name} {i}", name) for i in range(count)]
    page = watched.open(f"/?experiment={name}")
    expect(page.locator("[data-connection]")).to_have_text("live")
    return page, ids


def row(page: Page, run: str) -> Any:
    return page.locator(f'tr[data-run="{run}"]')


@pytest.mark.slow
def test_tags_and_notes_are_edited_in_place(watch: OpenPage, stack: Stack) -> None:
    watched = watch()
    page, (_, run) = open_shelf(watched, stack, "edits", 2)
    row(page, run).hover()
    row(page, run).locator("[data-edit]").click()
    expect(page.get_by_label("Tags", exact=True)).to_be_focused()
    page.keyboard.type("slow, 学习率，slow")
    add(stack, "comes meanwhile", "edits")
    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page.get_by_label("Tags", exact=True)).to_be_focused()
    expect(page.get_by_label("Tags", exact=True)).to_have_value("slow, 学习率，slow")
    page.keyboard.press("Tab")
    page.keyboard.type("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second")
    page.keyboard.press("Enter")
    expect(row(page, run).locator(".tag")).to_have_text(["slow", "学习率"])
    expect(row(page, run).locator(".note")).to_contain_text("first line")
    expect(row(page, run).locator("[data-edit]")).to_be_focused()
    page.keyboard.press("e")
    page.keyboard.type("not kept")
    page.keyboard.press("Escape")
    expect(page.locator("[data-editor-form]")).to_have_count(0)
    page.keyboard.press("e")
    page.get_by_label("Tags", exact=True).fill("x" * 120)
    page.keyboard.press("Enter")
    expect(page.locator("[data-editor-form] .field-error")).to_contain_text("at most 100 characters")
    expect(page.get_by_label("Tags", exact=True)).to_have_value("x" * 120)
    watched.troubles = [trouble for trouble in watched.troubles if "422" not in trouble]


@pytest.mark.slow
def test_keys_move_select_compare_and_help(watch: OpenPage, stack: Stack) -> None:
    page, ids = open_shelf(watch(), stack, "keys", 3)
    page.keyboard.press("j")
    expect(row(page, ids[2]).locator("[data-run-link]")).to_be_focused()
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("[data-selected]")).to_have_text("2 selected")
    page.keyboard.press("k")
    expect(row(page, ids[1]).locator("[data-run-link]")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("xjc?")
    expect(page.get_by_role("searchbox")).to_have_value("xjc?")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("val/accuracy >= 98%")
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    expect(page.locator("[data-selected]")).to_have_text("2 selected")
    page.keyboard.press("c")
    page.wait_for_url(re.compile(f"/compare\\?run={ids[2]}&run={ids[0]}"))
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Shortcuts")


@pytest.mark.slow
def test_the_selection_lasts_over_pages_and_live_rows(watch: OpenPage, stack: Stack) -> None:
    page, ids = open_shelf(watch(), stack, "lasting", 52)
    row(page, ids[-1]).locator("input").check()
    page.get_by_role("link", name="Next").click()
    expect(page.locator("[data-selected]")).to_have_text("1 selected, 1 of them not on this page")
    row(page, ids[0]).locator("input").check()
    add(stack, "one more", "lasting")
    page.get_by_role("link", name="Previous").click()
    expect(page.locator("[data-selected]")).to_have_text("2 selected, 1 of them not on this page")
    expect(row(page, ids[-1]).locator("input")).to_be_checked()
    page.get_by_role("button", name="Deselect all").click()
    expect(page.locator("[data-selected]")).to_have_text("")


@pytest.mark.slow
def test_many_runs_are_tagged_and_deleted_with_what_failed(watch: OpenPage, stack: Stack) -> None:
    page, ids = open_shelf(watch(), stack, "bulky", 3)
    post(stack, f"/api/v1/runs/{ids[0]}/finish", {})
    page.locator("[data-check-all]").check()
    page.get_by_role("button", name="Tag …").click()
    page.get_by_label("Add").fill("good, old")
    page.keyboard.press("Enter")
    expect(page.locator("[data-outcome]")).to_contain_text("Tagged: 3.")
    expect(row(page, ids[1]).locator(".tag")).to_have_text(["good", "old"])
    page.get_by_role("button", name="Delete …").click()
    expect(page.get_by_role("dialog")).to_contain_text("bulky 2")
    page.get_by_role("button", name="Keep them").click()
    expect(page.locator("tbody tr")).to_have_count(3)
    page.get_by_role("button", name="Delete …").click()
    page.get_by_role("button", name="Delete the runs").click()
    expect(page.locator("[data-outcome]")).to_contain_text("Deleted: 1.")
    expect(page.locator("[data-outcome] li")).to_have_count(2)
    expect(page.locator("[data-outcome]")).to_contain_text(
        "bulky 1: the run is running; cancel it before you delete it"
    )
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.locator("[data-selected]")).to_have_text("2 selected")
    page.get_by_role("button", name="Cancel …").click()
    page.get_by_role("button", name="Cancel the runs").click()
    expect(row(page, ids[1]).locator(".badge")).to_have_text("canceled")


@pytest.mark.slow
def test_live_rows_keep_focus_and_scroll(watch: OpenPage, stack: Stack) -> None:
    page, ids = open_shelf(watch(), stack, "steady", 40)
    link = row(page, ids[5]).locator("[data-run-link]")
    link.focus()
    before = page.evaluate("scrollY")
    assert before > 0
    post(stack, f"/api/v1/runs/{ids[30]}/finish", {})
    send(stack, ids[5], 1, 3)
    expect(row(page, ids[5])).to_contain_text("step 3")
    expect(page.locator("[data-fragment=summary]")).to_contain_text("40 of")
    post(stack, "/api/v1/runs/bulk", {"runs": [ids[30]], "action": "delete"})
    expect(row(page, ids[30])).to_have_count(0)
    expect(link).to_be_focused()
