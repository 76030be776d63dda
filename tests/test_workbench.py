"""The charts of a comparison in a real Chromium: the address is the state, and nothing measured is lost on the way."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from app import runs, series
from app.db import Database, now
from app.runs import NewRun
from tests.processes import Stack

pytestmark = pytest.mark.slow

Values = Mapping[str, Sequence[float]]
MODELS = ("lenet", "alexnet", "resnet8")


@pytest.fixture(scope="module")
def store(stack: Stack) -> Iterator[Database]:
    """The stack's own database: thousands of points are there at once, as if scripts had sent them."""
    database = Database(f"sqlite:///{stack.directory / 'trainyard.db'}")
    yield database
    database.dispose()


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": 1440, "height": 900},
        locale="en-GB",
        base_url=stack.url,
        reduced_motion="reduce",
        permissions=["clipboard-read", "clipboard-write"],
    )
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    troubles: list[str] = []
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("console", lambda m: troubles.append(m.text) if m.type in ("error", "warning") else None)
    yield opened
    context.close()
    assert [trouble for trouble in troubles if "Failed to load resource" not in trouble] == []


def make_run(store: Database, name: str, values: Values, ended: bool = True, **params: Any) -> str:
    """An external run whose metrics have these values at steps 1, 2, ...; a shorter one at every k-th step."""
    with store.begin() as s:
        run, _created = runs.create_run(s, NewRun(None, name, params=params), max_queued=10_000)
        at, length = now(s), max(map(len, values.values()), default=0)
        points = {}
        for metric, column in values.items():
            every = length // len(column)
            steps = np.arange(1, len(column) + 1) * every
            points[metric] = series.make_block(
                steps, np.asarray(at + steps * 0.01, np.float64), np.asarray(column, "<f8")
            )
        if points:
            runs.append_external(s, run.id, None, points)
        if ended:
            runs.finish_external(s, run.id, "finished", None)
        return run.id


def address(ids: Sequence[str], *more: tuple[str, object]) -> str:
    return "/compare?" + urlencode([("run", run_id) for run_id in ids] + [(n, str(v)) for n, v in more])


def chart(page: Page, title: str) -> Locator:
    found = page.locator(".chart").filter(has=page.get_by_role("heading", name=title, exact=True))
    found.scroll_into_view_if_needed()
    return found


def traces(page: Page, title: str, expression: str) -> Any:
    """Of every trace of a chart what a JavaScript expression says of it, as `t`."""
    return (
        chart(page, title)
        .locator(".chart-plot")
        .evaluate(f"p => (p.data ?? []).filter(t => t.showlegend).map(t => {expression})")
    )


def until(page: Page, title: str, condition: str) -> None:
    """Wait for a condition on `p`, the plot of a chart that is drawn."""
    plot = chart(page, title).locator(".chart-plot").element_handle()
    page.wait_for_function(f"p => p.data && p.layout && ({condition})", arg=plot)


def asked(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def wait_for_address(page: Page, pattern: str) -> None:
    page.wait_for_url(re.compile(pattern))


def drag(page: Page, plot: Locator, start: float, end: float, key: str = "") -> None:
    """Over the plot from one part of its width to another."""
    box = plot.locator(".nsewdrag").first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    if key:
        page.keyboard.down(key)
    page.mouse.move(box["x"] + box["width"] * start, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * end, y, steps=8)
    page.mouse.up()
    if key:
        page.keyboard.up(key)


def noisy(seed: int, length: int = 5_000) -> list[float]:
    rng = np.random.default_rng(seed)
    values: list[float] = (rng.gamma(2.0, 1.0, length) + 3 * np.exp(-np.arange(length) / 900)).tolist()
    return values


@pytest.fixture(scope="module")
def six(store: Database) -> list[str]:
    """Three models, two seeds each, two metrics."""
    return [
        make_run(
            store,
            f"{model} {seed}",
            {
                "train/loss": noisy(10 * i + seed),
                "val/accuracy": [0.1 * i + 0.01 * seed + k / 50 for k in range(20)],
            },
            model=model,
            seed=seed,
            lr=0.1,
        )
        for i, model in enumerate(MODELS)
        for seed in (0, 1)
    ]


# -- nothing is lost -----------------------------------------------------------------------------------------------


def test_a_spike_of_one_step_in_10000_is_drawn_among_many_runs(page: Page, store: Database) -> None:
    calm = [make_run(store, f"calm {k}", {"train/loss": [1.0 + k / 100] * 10_000}) for k in range(12)]
    values = [1.0] * 10_000
    values[6_788] = 100.0
    spiky = make_run(store, "spiky", {"train/loss": values})
    page.goto(address([*calm, spiky]))
    until(page, "Training loss", "p.data.length === 13")
    highest = traces(page, "Training loss", "[t.name, Math.max(...t.y), t.x[t.y.indexOf(Math.max(...t.y))]]")
    assert ["spiky", 100.0, 6789] in highest
    expect(chart(page, "Training loss").locator(".chart-note")).to_contain_text(
        "of 130,000 points, extremes kept"
    )


def test_a_hundred_runs_on_one_page_are_all_drawn(page: Page, store: Database) -> None:
    ids = [
        make_run(store, f"run {k:03d}", {"train/loss": noisy(k, 400), "system/gpu": [float(k)] * 40})
        for k in range(100)
    ]
    page.goto(address(ids))
    until(page, "Training loss", "p.data.filter(t => t.showlegend).length === 100")
    assert sorted(traces(page, "Training loss", "t.name")) == [f"run {k:03d}" for k in range(100)]
    looks = traces(page, "Training loss", "[t.line.color, t.line.dash].join()")
    assert len(set(looks)) == 32, "eight colours times four dashes"
    legend = page.locator("[data-legend]")
    expect(legend.locator("summary")).to_have_text("100 of 100 runs shown")
    legend.get_by_label("Find a run").fill("run 07")
    expect(legend.locator("li")).to_have_count(10)
    legend.get_by_role("button", name="None").click()
    expect(legend.locator("summary")).to_have_text("90 of 100 runs shown")
    until(page, "Training loss", "p.data.length === 90")


def test_what_is_not_finite_is_marked_at_the_edge(page: Page, store: Database) -> None:
    values = [1.0] * 3_000
    values[100], values[2_000], values[2_500] = math.nan, math.inf, -math.inf
    odd = make_run(store, "odd", {"train/loss": values})
    nothing = make_run(store, "only NaN", {"train/loss": [math.nan] * 50})
    page.goto(address([odd, nothing]))
    until(page, "Training loss", "p.data.some(t => t.yaxis === 'y2')")
    marks = (
        chart(page, "Training loss")
        .locator(".chart-plot")
        .evaluate("p => p.data.filter(t => t.yaxis === 'y2').map(t => [t.name, t.text, t.x])")
    )
    assert marks[:1] == [["odd", ["NaN", "Infinity", "-Infinity"], [101, 2001, 2501]]]
    expect(chart(page, "Training loss").locator(".chart-note")).to_contain_text(
        "only NaN: NaN or infinity only"
    )


# -- the view ------------------------------------------------------------------------------------------------------


def test_hiding_and_isolating_runs_is_in_the_address_and_outlives_a_reload(
    page: Page, six: list[str]
) -> None:
    page.goto(address(six))
    until(page, "Training loss", "p.data.length === 6")
    legend = page.locator("[data-legend]")
    legend.get_by_role("button", name="lenet 1", exact=True).click()
    until(page, "Training loss", "p.data.length === 5")
    wait_for_address(page, f"hide={six[1]}")
    page.reload()
    until(page, "Training loss", "p.data.length === 5")
    hidden = legend.get_by_role("button", name="lenet 1", exact=True)
    expect(hidden).to_have_attribute("aria-pressed", "false")
    legend.get_by_role("button", name="alexnet 0", exact=True).dblclick()
    until(page, "Training loss", "p.data.length === 1 && p.data[0].name === 'alexnet 0'")
    wait_for_address(page, f"only={six[2]}")
    assert "hide" not in asked(page)
    page.reload()
    until(page, "Training loss", "p.data.length === 1 && p.data[0].name === 'alexnet 0'")
    only = legend.get_by_role("button", name="Show only resnet8 1")
    only.focus()
    page.keyboard.press("Enter")
    until(page, "Training loss", "p.data.length === 1 && p.data[0].name === 'resnet8 1'")
    legend.get_by_role("button", name="All", exact=True).click()
    until(page, "Training loss", "p.data.length === 6")


def test_a_zoom_is_every_charts_and_reads_the_window_again(page: Page, six: list[str]) -> None:
    page.goto(address(six))
    until(page, "Training loss", "p.data.length === 6")
    until(page, "Validation accuracy", "p.data.length === 6")
    plot = chart(page, "Training loss").locator(".chart-plot")
    drag(page, plot, 0.5, 0.56)
    until(page, "Training loss", "p.layout.xaxis.range[1] - p.layout.xaxis.range[0] < 600")
    low, high = plot.evaluate("p => p.layout.xaxis.range")
    until(page, "Validation accuracy", f"Math.abs(p.layout.xaxis.range[0] - {low}) < 1e-6")
    every = math.floor(high) - math.ceil(low) + 1
    until(
        page,
        "Training loss",
        f"p.data.every(t => t.x.filter(x => x >= {low} && x <= {high}).length === {every})",
    )
    wait_for_address(page, "zoom=")
    page.reload()
    until(page, "Training loss", f"Math.abs(p.layout.xaxis.range[0] - {low}) < 1e-6")
    page.get_by_role("button", name="Reset zoom").first.click()
    until(page, "Training loss", "p.layout.xaxis.range[1] > 4900")
    until(page, "Validation accuracy", "p.layout.xaxis.range[1] > 4900")


def test_moving_with_shift_keeps_the_span_and_fits_y(page: Page, six: list[str]) -> None:
    page.goto(address(six, ("zoom", "1000,1500")))
    until(page, "Training loss", "p.data.length === 6")
    plot = chart(page, "Training loss").locator(".chart-plot")
    drag(page, plot, 0.7, 0.2, key="Shift")
    until(page, "Training loss", "Math.abs(p.layout.xaxis.range[0] - 1250) < 5")
    assert plot.evaluate("p => p.layout.xaxis.range[1] - p.layout.xaxis.range[0]") == pytest.approx(500)
    until(page, "Validation accuracy", "Math.abs(p.layout.xaxis.range[0] - 1250) < 5")
    wait_for_address(page, "zoom=12")
    assert "ylim" not in asked(page)
    plot.focus()
    page.keyboard.press("-")
    until(page, "Training loss", "p.layout.xaxis.range[1] - p.layout.xaxis.range[0] > 990")
    page.keyboard.press("0")
    until(page, "Training loss", "p.layout.xaxis.range[1] > 4900")


def test_a_zoom_stays_while_live_points_come(page: Page, stack: Stack, store: Database) -> None:
    run = make_run(store, "growing", {"train/loss": noisy(1, 3_000)}, ended=False)
    page.goto(address([run]))
    until(page, "Training loss", "p.data.length === 1")
    expect(page.locator("[data-charts-status] [data-part=text]")).to_have_text("live")
    plot = chart(page, "Training loss").locator(".chart-plot")
    drag(page, plot, 0.2, 0.4)
    expect(page.locator("[data-charts-status]")).to_contain_text("paused while zoomed")
    before = plot.evaluate("p => p.layout.xaxis.range")
    with stack.http as http:
        body = {"step": list(range(3_001, 3_101)), "values": {"train/loss": [0.5] * 100}}
        http.post(f"/api/v1/runs/{run}/metrics", json=body).raise_for_status()
    fresh = page.get_by_role("button", name="100 new points: show")
    expect(fresh).to_be_visible()
    until(page, "Training loss", "p.data[0].x.at(-1) === 3100")
    assert plot.evaluate("p => p.layout.xaxis.range") == before
    fresh.click()
    until(page, "Training loss", "p.layout.xaxis.range[1] >= 3100")
    expect(page.locator("[data-charts-status] [data-part=text]")).to_have_text("live")


def test_logarithmic_axes_are_a_charts_own_and_in_the_address(page: Page, six: list[str]) -> None:
    page.goto(address(six))
    until(page, "Training loss", "p.data.length === 6")
    chart(page, "Training loss").get_by_role("button", name="Logarithmic y axis").click()
    until(page, "Training loss", "p.layout.yaxis.type === 'log'")
    assert (
        chart(page, "Validation accuracy").locator(".chart-plot").evaluate("p => p.layout?.yaxis.type")
        != "log"
    )
    page.get_by_label("log x").check()
    until(page, "Training loss", "p.layout.xaxis.type === 'log'")
    wait_for_address(page, "logx=1")
    page.reload()
    until(page, "Training loss", "p.layout.xaxis.type === 'log' && p.layout.yaxis.type === 'log'")


def test_smoothing_is_the_formula_over_every_point(page: Page, store: Database) -> None:
    values = noisy(4, 6_000)
    run = make_run(store, "smoothed", {"train/loss": values})
    mean, expected = 0.0, []
    for n, value in enumerate(values, 1):
        mean = 0.97 * mean + 0.03 * value
        expected.append(mean / (1 - 0.97**n))
    page.goto(address([run], ("smooth", 0.97)))
    title = "Training loss"
    until(page, title, f"p.data.length === 2 && Math.abs(p.data[1].y.at(-1) - {expected[-1]}) < 1e-6")
    raw, smooth = (
        chart(page, title)
        .locator(".chart-plot")
        .evaluate("p => p.data.map(t => ({x: [...t.x], y: [...t.y], opacity: t.opacity}))")
    )
    assert raw["opacity"] < 0.3, "what was measured stays, faint"
    assert max(raw["y"]) == pytest.approx(max(values))
    assert len(smooth["x"]) <= 1_000
    np.testing.assert_allclose(smooth["y"], [expected[step - 1] for step in smooth["x"]], rtol=1e-6)


def test_groups_are_means_with_a_band(page: Page, six: list[str]) -> None:
    page.goto(address(six, ("band", "minmax")))
    until(page, "Validation accuracy", "p.data.length === 6")
    page.locator("summary", has_text="Group by").click()
    page.get_by_role("checkbox", name="Model", exact=True).check()
    page.keyboard.press("Escape")
    until(page, "Validation accuracy", "p.data.filter(t => t.showlegend).length === 3")
    names = traces(page, "Validation accuracy", "t.name")
    assert names == ["LeNet", "AlexNet", "ResNet-8"]
    means = traces(page, "Validation accuracy", "[...t.y]")
    for i, found in enumerate(means):
        np.testing.assert_allclose(found, [0.1 * i + 0.005 + k / 50 for k in range(20)], atol=1e-9)
    low, high = (
        chart(page, "Validation accuracy")
        .locator(".chart-plot")
        .evaluate("p => p.data.filter(t => !t.showlegend).slice(0, 2).map(t => [...t.y])")
    )
    np.testing.assert_allclose(np.subtract(high, low), 0.01, atol=1e-9)
    wait_for_address(page, "group=model")
    legend = page.locator("[data-legend]")
    expect(legend.locator("li").first).to_contain_text("n = 2")
    legend.get_by_role("button", name=re.compile("^AlexNet")).click()
    until(page, "Validation accuracy", "p.data.filter(t => t.showlegend).length === 2")
    legend.get_by_role("button", name=re.compile("^AlexNet")).click()
    until(page, "Validation accuracy", "p.data.filter(t => t.showlegend).length === 3")


def test_one_crosshair_over_all_charts(page: Page, six: list[str]) -> None:
    page.goto(address(six))
    until(page, "Training loss", "p.data.length === 6")
    until(page, "Validation accuracy", "p.data.length === 6")
    plot = chart(page, "Validation accuracy").locator(".chart-plot")
    plot.hover(position={"x": 300, "y": 100})
    tips = page.locator(".chart-tip")
    expect(tips.filter(has_text="lenet 0")).to_have_count(2)
    heads = page.locator(".tip-head").all_text_contents()
    assert heads[0] == heads[1]
    plot.focus()
    page.keyboard.press("ArrowRight")
    expect(chart(page, "Validation accuracy").locator('[data-part="told"]')).to_contain_text("lenet 0")


def test_one_chart_fills_the_screen_and_escape_brings_it_back(page: Page, six: list[str]) -> None:
    page.goto(address(six))
    until(page, "Training loss", "p.data.length === 6")
    chart(page, "Training loss").get_by_role("button", name="Full screen").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("heading", name="Training loss")).to_be_visible()
    wait_for_address(page, "full=train")
    width = page.evaluate("document.querySelector('dialog .chart-plot').clientWidth")
    assert width > 1200
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(chart(page, "Training loss").get_by_role("button", name="Full screen")).to_be_focused()
    until(page, "Training loss", "p.data.length === 6 && p.clientWidth < 900")
    page.goto(address(six, ("full", "val/accuracy")))
    expect(page.get_by_role("dialog").get_by_role("heading", name="Validation accuracy")).to_be_visible()


def test_a_chart_is_saved_as_picture_and_as_every_point(page: Page, store: Database) -> None:
    values = [0.1 + 0.2, *noisy(2, 4_998), math.nan]
    ids = [make_run(store, name, {"train/loss": values}) for name in ("=cmd", "plain")]
    page.goto(address(ids))
    until(page, "Training loss", "p.data.length >= 2")
    saved = {}
    for item in ("PNG", "SVG", "every point as CSV"):
        frame = chart(page, "Training loss")
        frame.get_by_label("More").click()
        with page.expect_download() as download:
            frame.get_by_role(
                "button", name=f"Save {'as ' if item != 'every point as CSV' else ''}{item}"
            ).click()
        saved[item] = download.value.path()
        assert re.fullmatch(
            r"trainyard_Training-loss_.*plain\.(png|svg|csv)", download.value.suggested_filename
        )
    assert saved["PNG"].read_bytes().startswith(b"\x89PNG")
    assert "plain" in saved["SVG"].read_text(), "the legend is in the picture"
    rows = list(csv.reader(saved["every point as CSV"].read_text().splitlines()))
    assert rows[0] == ["run", "name", "metric", "step", "time", "value"]
    assert len(rows) == 1 + 2 * 5_000, "every point, not those that are drawn"
    assert {row[1] for row in rows[1:]} == {"'=cmd", "plain"}
    assert [float(row[5]) for row in rows[1:5000]] == values[:4999]
    assert rows[5000][5] == "nan"


def test_metrics_are_found_chosen_and_folded_away(page: Page, store: Database) -> None:
    metrics = {f"custom/m{k}": [1.0, 2.0] for k in range(12)} | {"train/loss": [1.0, 2.0]}
    run = make_run(store, "many metrics", metrics)
    page.goto(address([run]))
    fold = page.get_by_role("button", name=re.compile("^custom"))
    expect(fold).to_contain_text("12")
    fold.click()
    expect(page.get_by_role("heading", name="custom/m3")).to_be_hidden()
    wait_for_address(page, "closed=custom")
    fold.click()
    page.get_by_label("Find a metric").fill("m11")
    expect(page.locator(".chart:visible")).to_have_count(1)
    wait_for_address(page, "find=m11")
    page.reload()
    expect(page.locator(".chart:visible")).to_have_count(1)
    page.get_by_label("Find a metric").fill("nonsense")
    expect(page.locator("[data-charts-empty]")).to_contain_text("None of the 13 charts")
    page.goto(address([run], ("y", "custom/m3"), ("y", "train/loss")))
    expect(page.locator(".chart:visible")).to_have_count(2)


# -- what it cannot show -------------------------------------------------------------------------------------------


def test_runs_with_nothing_in_common_and_a_hand_edited_address(page: Page, store: Database) -> None:
    one = make_run(store, "apples", {"apples/weight": [1.0, 2.0, 3.0]}, steps_per_epoch=2)
    two = make_run(store, "pears", {"pears/weight": [3.0, 2.0], "apples/weight": [4.0, 5.0]})
    page.goto(
        address([one, two, "gone"], ("x", "epoch"), ("y", "nonsense"), ("smooth", "lots"), ("zoom", "a,b"))
    )
    for words in ("gone", "nonsense", "lots", "a,b"):
        expect(page.locator("main")).to_contain_text(words)
    until(page, "apples/weight", "p.data[0].x.at(-1) === 1.5")
    expect(chart(page, "apples/weight").locator(".chart-note")).to_contain_text(
        "pears: this run does not know"
    )
    expect(chart(page, "pears/weight").locator(".chart-state")).to_contain_text(
        "pears: this run does not know"
    )


def test_what_cannot_be_read_says_so_and_can_be_tried_again(page: Page, six: list[str]) -> None:
    page.route("**/api/v1/series?*", lambda route: route.abort())
    page.goto(address(six))
    frame = chart(page, "Training loss")
    expect(frame.locator(".chart-state")).to_contain_text("cannot be read right now")
    page.unroute("**/api/v1/series?*")
    frame.get_by_role("button", name="Try again").click()
    until(page, "Training loss", "p.data.length === 6")


def test_a_chart_says_in_words_what_it_shows(page: Page, six: list[str]) -> None:
    page.goto(address(six))
    until(page, "Validation accuracy", "p.data.length === 6")
    told = chart(page, "Validation accuracy").locator('[data-part="summary"]')
    expect(told).to_contain_text("Validation accuracy, 6 lines.")
    expect(told).to_contain_text("lenet 0: last 38.00 %, highest 38.00 %.")


def test_a_page_asks_for_all_its_scripts_at_once(page: Page, six: list[str]) -> None:
    """Each module that is fetched was named in the page's head: none waits until another has been read."""
    fetched: list[str] = []
    page.on("request", lambda r: fetched.append(urlsplit(r.url).path) if "/static/js/" in r.url else None)
    page.goto(address(six))
    until(page, "Training loss", "p.data.length")
    links = page.locator("link[rel=modulepreload], head script[src]")
    named = links.evaluate_all("all => all.map(one => one.getAttribute('href') ?? one.getAttribute('src'))")
    assert len(fetched) > 30
    assert set(fetched) == {name for name in named if "/static/js/" in name}


def test_without_plotly_the_page_says_so(page: Page, six: list[str]) -> None:
    page.route("**/plotly.min.js", lambda route: route.abort())
    page.goto(address(six))
    expect(page.locator(".chart [data-part=note]").first).to_contain_text("could not be loaded")
