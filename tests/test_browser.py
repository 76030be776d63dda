"""The pages in a real Chromium: what a person sees, live, without reloading."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Locator,
    Page,
    Request,
    expect,
)

from app.web.forms import outcome_words
from ml.recipes import find_recipe
from tests.browser import no_sideways_scroll
from tests.processes import Stack

pytestmark = pytest.mark.slow

EVIL = '</script><img src=x onerror="window.__pwned=1">\'{{7*7}}<b>bold</b>'
WATCH = "addEventListener('securitypolicyviolation', e => console.error('CSP', e.violatedDirective, e.blockedURI))"
WIDTHS = {"wide": (1440, 900), "narrow": (390, 844)}


@dataclass
class Watched:
    """A page, and everything that went wrong in it."""

    page: Page
    url: str
    scripts: bool = True
    troubles: list[str] = field(default_factory=list)

    def on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(message.text)

    def on_dialog(self, dialog: Dialog) -> None:
        self.troubles.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def on_request_failed(self, request: Request) -> None:
        if not self.scripts and request.url.endswith(".js"):
            return  # links to modules are there all the same, and Chromium gives them up
        if request.failure != "net::ERR_ABORTED":  # going to another page aborts what is under way
            self.troubles.append(f"failed {request.url}")

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page


OpenPage = Callable[..., Watched]


@pytest.fixture
def watch(browser: Browser, stack: Stack) -> Iterator[OpenPage]:
    contexts: list[BrowserContext] = []
    opened: list[Watched] = []

    def make(size: str = "wide", **options: Any) -> Watched:
        width, height = WIDTHS[size]
        context = browser.new_context(viewport={"width": width, "height": height}, locale="en-GB", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(WATCH)
        watched = Watched(page, stack.url, scripts=options.get("java_script_enabled", True))
        page.on("console", watched.on_console)
        page.on("pageerror", lambda error: watched.troubles.append(str(error)))
        page.on("dialog", watched.on_dialog)
        page.on("requestfailed", watched.on_request_failed)
        opened.append(watched)
        return watched

    yield make
    for context in contexts:
        context.close()
    assert [trouble for watched in opened for trouble in watched.troubles] == []


def points(page: Page, title: str) -> dict[str, int]:
    """Names of the traces of the chart with this title, with their number of points."""
    found: dict[str, int] = page.evaluate(
        """title => {
          const chart = [...document.querySelectorAll(".chart")].find(c => c.querySelector("h3").textContent === title);
          const data = chart?.querySelector(".chart-plot").data ?? [];
          return Object.fromEntries(data.map(trace => [trace.name, trace.x.length]));
        }""",
        title,
    )
    return found


def chart(page: Page, title: str) -> Locator:
    return page.locator(".chart").filter(has=page.get_by_role("heading", name=title, exact=True))


def wait_for_points(page: Page, title: str, at_least: int, traces: int = 1) -> dict[str, int]:
    chart(page, title).scroll_into_view_if_needed(timeout=120_000)  # charts far from the screen are not drawn
    page.wait_for_function(
        """([title, atLeast, traces]) => {
          const chart = [...document.querySelectorAll(".chart")].find(c => c.querySelector("h3").textContent === title);
          const data = chart?.querySelector(".chart-plot").data ?? [];
          return data.length >= traces && data.every(trace => trace.x.length >= atLeast);
        }""",
        arg=[title, at_least, traces],
        timeout=120_000,
    )
    return points(page, title)


def until(page: Page, condition: str) -> None:
    """Wait for an expression of the page; as a function, since the pages forbid the evaluation of text."""
    page.wait_for_function(f"() => {condition}")


def external(stack: Stack, name: str, points: int = 0, **params: Any) -> str:
    with stack.http as http:
        run: str = http.post("/api/v1/runs", json={"external": True, "name": name, "params": params}).json()[
            "id"
        ]
        if points:
            send(stack, run, 1, points)
    return run


def send(stack: Stack, run: str, first: int, count: int, **more: list[Any]) -> None:
    steps = list(range(first, first + count))
    values = {"train/loss": [2.0 / step for step in steps], **more}
    with stack.http as http:
        http.post(f"/api/v1/runs/{run}/metrics", json={"step": steps, "values": values}).raise_for_status()


# -- the main job -----------------------------------------------------------------------------------------------------


def test_a_person_fills_the_form_and_sees_the_curve_grow(watch: OpenPage) -> None:
    page = watch().open("/")
    page.get_by_role("link", name="New run").first.click()
    page.get_by_label("Model", exact=True).select_option("lenet")
    page.get_by_label("Dataset", exact=True).first.select_option("digits")
    page.get_by_label("Epochs").first.fill("30")
    said = page.locator("[data-summary]")
    page.get_by_label("Validate on").select_option("train")
    expect(said).to_contain_text("LeNet on Digits: 30 × 21 steps of 64 images, 630 steps")
    page.get_by_label("Validation images").fill("500")
    expect(said).to_contain_text("LeNet on Digits: 30 × 15 steps of 64 images, 450 steps")
    page.get_by_label("Validation images").fill("")
    page.get_by_label("Validate on").select_option("test")
    expect(said).to_contain_text("LeNet on Digits: 30 × 23 steps of 64 images, 690 steps")
    page.get_by_label("Name", exact=True).fill("by hand")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url(re.compile(r"/runs/\w+$"))
    page.evaluate("window.__same_page = true")
    first = wait_for_points(page, "Loss", 1)
    grown = wait_for_points(page, "Loss", 2, 2)
    assert first["training"] <= grown["training"] <= 690
    expect(page.locator("h1 .badge")).to_have_text("finished", timeout=120_000)
    assert wait_for_points(page, "Loss", 30, 2) == {"training": 690, "validation": 30}
    assert wait_for_points(page, "Accuracy", 30, 2) == {"training": 690, "validation": 30}
    expect(page.locator(".run-head [data-field='percent']")).to_have_text("100 %")
    expect(page.locator(".run-head [data-field='best-accuracy']")).to_contain_text("%")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(page.locator(".moments li").first).to_contain_text("finished")
    assert page.evaluate("window.__same_page"), "nothing of this needed a reload"


def test_the_comparison_of_three_finished_runs_has_three_named_curves_in_each_chart(
    watch: OpenPage, stack: Stack
) -> None:
    watched = watch()
    page = watched.open("/new")
    preset = page.locator("form.preset").first
    preset.get_by_label("Dataset").select_option("digits")
    preset.get_by_label("Epochs").fill("2")
    preset.get_by_label("Training images").fill("320")
    preset.get_by_role("button").click()
    page.wait_for_url(re.compile(r"/compare\?run="))
    expect(page.locator(".card .badge-finished")).to_have_count(3, timeout=240_000)
    names = {"LeNet", "AlexNet", "ResNet-8"}
    for title in (
        "Training loss",
        "Validation loss",
        "Training accuracy",
        "Validation accuracy",
        "Learning rate",
    ):
        steps = 2 if title.startswith("Validation") else 10
        assert wait_for_points(page, title, steps, 3) == dict.fromkeys(names, steps), title
    page = watched.open(page.url.removeprefix(stack.url))  # and the same when opened afterwards
    for title in ("Training loss", "Validation loss", "Training accuracy", "Validation accuracy"):
        assert wait_for_points(page, title, 1, 3).keys() == names
    colours = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.data.map(t => t.line.color).join())"
    )
    assert len(set(colours)) == 1, "a run has one colour in every chart"
    assert len(set(colours[0].replace("rgb", "|rgb").split("|"))) >= 3
    cards = page.evaluate(
        "[...document.querySelectorAll('.card .swatch')].map(s => getComputedStyle(s).backgroundColor)"
    )
    assert ",".join(cards) == colours[0], "and it is the colour of its card"
    expect(page.locator(".verdict")).to_contain_text("only the model differs")
    page.get_by_text("Epoch", exact=True).click()
    until(page, "document.querySelector('.chart-plot').data.every(t => t.x.at(-1) === 2)")
    expect(page).to_have_url(re.compile("x=epoch"))


# -- live -------------------------------------------------------------------------------------------------------------


def test_points_that_arrive_live_extend_the_curve_once_each(watch: OpenPage, stack: Stack) -> None:
    run = external(stack, "live", points=5)
    page = watch().open(f"/runs/{run}")
    expect(page.locator("[data-connection]")).to_have_text("live")
    assert wait_for_points(page, "Loss", 5) == {"training": 5}
    for first in range(6, 26, 5):
        send(stack, run, first, 5)
    wait_for_points(page, "Loss", 25)
    steps = page.evaluate("document.querySelector('.chart-plot').data[0].x")
    assert steps == list(range(1, 26))
    send(stack, run, 26, 1, **{"my/metric": [7.5]})
    wait_for_points(page, "my/metric", 1)
    with stack.http as http:
        http.post(f"/api/v1/runs/{run}/finish", json={"state": "failed", "error": "out of coffee"})
    expect(page.locator("h1 .badge")).to_have_text("failed")
    expect(page.locator(".failure")).to_contain_text("out of coffee")


def test_a_spike_in_many_points_is_drawn_and_the_chart_says_what_it_shows(
    watch: OpenPage, stack: Stack
) -> None:
    run = external(stack, "spiky")
    values: list[Any] = [1.0] * 10_000
    values[6_789], values[1_234], values[2_345] = 100.0, "NaN", "-Infinity"
    send(stack, run, 1, 10_000, **{"train/loss": values})
    page = watch().open(f"/runs/{run}")
    wait_for_points(page, "Loss", 1)
    expect(page.locator(".chart-note").first).to_contain_text("of 10,000 points, extremes kept")
    drawn = page.evaluate(
        "document.querySelector('.chart-plot').data.map(t => [Math.max(...t.y), t.x.length, t.text])"
    )
    assert drawn[0][0] == 100.0
    assert drawn[0][1] <= 1_000
    assert drawn[1][2] == ["NaN", "-Infinity"]


def test_a_zoom_reads_the_window_again_and_outlives_live_points(watch: OpenPage, stack: Stack) -> None:
    run = external(stack, "zoomed", points=9_000)
    page = watch().open(f"/runs/{run}")
    wait_for_points(page, "Loss", 500)
    area = page.locator(".chart-plot .nsewdrag").first.bounding_box()
    assert area is not None
    middle, height = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
    page.mouse.move(middle, height)
    page.mouse.down()
    page.mouse.move(middle + 30, height, steps=5)
    page.mouse.up()
    window = "document.querySelector('.chart-plot').layout.xaxis.range"
    drawn = "document.querySelector('.chart-plot').data[0].x"
    until(page, f"{window}[1] - {window}[0] < 1000")
    low, high = page.evaluate(window)
    every_step = math.floor(high) - math.ceil(low) + 1
    until(page, f"{drawn}.filter(x => x >= {low} && x <= {high}).length === {every_step}")
    expect(page.get_by_role("button", name="Reset zoom").first).to_be_visible()
    send(stack, run, 9_001, 10)
    until(page, f"{drawn}.at(-1) === 9010")
    assert page.evaluate(window) == [low, high], "live points do not undo a zoom"
    page.mouse.dblclick(middle, height)
    expect(page.get_by_role("button", name="Reset zoom").first).to_be_hidden()
    until(page, f"{window}[1] > 9000")


def test_new_runs_appear_on_the_runs_page_and_the_selection_stays(watch: OpenPage, stack: Stack) -> None:
    first = external(stack, "appears first")
    page = watch().open("/?text=appears")
    expect(page.locator("[data-connection]")).to_have_text("live")
    page.locator(f'input[value="{first}"]').check()
    expect(page.locator("[data-selected]")).to_have_text("1 selected")
    second = external(stack, "appears second")
    expect(page.locator(f'tr[data-run="{second}"]')).to_be_visible()
    expect(page.locator(f'input[value="{first}"]')).to_be_checked()
    page.locator(f'input[value="{second}"]').check()
    page.get_by_role("button", name="Compare selected").click()
    page.wait_for_url(re.compile(f"/compare\\?run={second}&run={first}"))
    expect(page.locator(".card")).to_have_count(2)


# -- the form ---------------------------------------------------------------------------------------------------------


def test_a_wrong_field_keeps_everything_typed_and_has_the_focus(watch: OpenPage) -> None:
    watched = watch()
    page = watched.open("/new?model=resnet8")
    page.get_by_label("Learning rate").fill("50")
    expect(page.locator("#field-lr-error")).to_be_hidden()
    page.get_by_label("Batch size").fill("32")
    expect(page.locator("#field-lr-error")).to_have_text("must be at most 10")
    page.get_by_label("Name", exact=True).fill("kept")
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("alert").first).to_contain_text("nothing was started")
    for label, value in (("Learning rate", "50"), ("Batch size", "32"), ("Name", "kept")):
        expect(page.get_by_label(label, exact=True).first).to_have_value(value)
    expect(page.get_by_label("Model", exact=True)).to_have_value("resnet8")
    expect(page.get_by_label("Learning rate")).to_be_focused()
    watched.troubles = [
        trouble for trouble in watched.troubles if "422" not in trouble
    ]  # Chromium logs the status


def test_choosing_a_model_fills_its_recipe_but_not_what_was_typed(watch: OpenPage) -> None:
    page = watch().open("/new")
    page.get_by_label("Momentum").fill("0.5")
    page.get_by_label("Model", exact=True).select_option("resnet20")
    expect(page.get_by_label("Learning rate")).to_have_value("0.2")
    expect(page.get_by_label("Weight decay")).to_have_value("0.0005")
    expect(page.get_by_label("Random shift")).to_be_visible()
    page.locator("#field-dataset").select_option("digits")
    expect(page.get_by_label("Learning rate")).to_have_value("0.1")
    expect(page.locator("#field-epochs")).to_have_value("20")
    expect(page.get_by_label("Momentum")).to_have_value("0.5")
    expect(page.get_by_label("Shortcuts", exact=True).locator("visible=true")).to_have_count(1)
    expect(page.get_by_label("Activation")).to_be_hidden()


def test_the_form_says_how_well_its_recipe_learnt(watch: OpenPage) -> None:
    page = watch().open("/new")
    said = page.locator("[data-outcome]")
    expect(said).to_have_text(outcome_words(find_recipe("lenet", "mnist").outcome))
    page.get_by_label("Name", exact=True).fill("mine")
    expect(said).not_to_be_empty()
    page.get_by_label("Learning rate").fill("0.01")  # another recipe, of which nothing is known
    expect(said).to_be_empty()
    page.get_by_label("Learning rate").fill("0.05")
    expect(said).not_to_be_empty()
    page.locator("#field-dataset").select_option("kmnist")
    expect(said).to_be_empty()


def test_without_javascript_the_form_still_starts_a_run(watch: OpenPage) -> None:
    page = watch(java_script_enabled=False).open("/new?dataset=digits&epochs=1&train_size=64")
    expect(page.locator("#field-options-alexnet-dropout")).to_be_visible()
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("h1 .badge")).to_be_visible()
    page.get_by_role("link", name="Runs", exact=True).click()
    page.locator("tbody input").first.check()
    page.get_by_role("button", name="Compare selected").click()
    expect(page.locator(".card")).to_have_count(1)


# -- every page -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_quiet_fits_and_keeps_evil_words_inert(
    watch: OpenPage, stack: Stack, size: str, scheme: str
) -> None:
    body = {"external": True, "name": EVIL, "tags": [EVIL, "x" * 100], "experiment": EVIL + "y" * 80}
    with stack.http as http:
        run = http.post("/api/v1/runs", json=body | {"params": {EVIL: EVIL, "model": EVIL[:60]}}).json()["id"]
        http.post(f"/api/v1/runs/{run}/finish", json={"state": "failed", "error": EVIL + " " + "z" * 300})
    other = external(stack, "w" * 150, points=3, dataset="mnist")
    watched = watch(size, color_scheme=scheme)
    paths = [
        "/",
        "/new",
        f"/runs/{run}",
        f"/runs/{other}",
        f"/compare?run={run}&run={other}&run=none",
        "/compare",
    ]
    for path in [*paths, "/workers", "/models/alexnet", "/docs", "/login"]:
        page = watched.open(path)
        page.wait_for_load_state("load")
        if path.startswith(("/runs/", "/compare?")):
            page.locator("[data-connection][data-state=live]").wait_for()
        if path == "/docs":
            page.locator(".swagger-ui .opblock").first.wait_for()
        assert no_sideways_scroll(page), path
        assert page.evaluate(
            "window.__pwned === undefined && !document.querySelector('img[onerror], td b, h1 b')"
        ), path
        assert page.evaluate("document.documentElement.dataset.theme") == scheme


def test_the_theme_switch_changes_charts_too_and_is_remembered(watch: OpenPage, stack: Stack) -> None:
    run = external(stack, "themed", points=20)
    watched = watch(color_scheme="light")
    page = watched.open(f"/runs/{run}")
    wait_for_points(page, "Loss", 20)
    look = "[getComputedStyle(document.body).backgroundColor, document.querySelector('.chart-plot').data[0].line.color]"
    light = page.evaluate(look)
    page.get_by_role("button", name="Theme: as the system").click()
    page.get_by_role("button", name="Theme: light").click()
    until(page, f"{look}[1] !== {light[1]!r}")
    dark = page.evaluate(look)
    assert dark[0] != light[0]
    page.reload()
    wait_for_points(page, "Loss", 20)
    assert page.evaluate(look) == dark
    page.get_by_role("button", name="Theme: dark").click()  # round again: as the system, which may change
    until(page, f"{look}[1] === {light[1]!r}")
    page.emulate_media(color_scheme="dark")
    until(page, f"{look}[1] === {dark[1]!r}")


def test_the_keyboard_reaches_the_content_first(watch: OpenPage) -> None:
    page = watch().open("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
