"""The comparison's panels in a real Chromium: sorted, starred, brushed and followed without reloading."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import no_sideways_scroll
from tests.processes import Stack

pytestmark = pytest.mark.slow

WATCH = "addEventListener('securitypolicyviolation', e => console.error('CSP', e.violatedDirective, e.blockedURI))"
OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, stack: Stack) -> Iterator[OpenPage]:
    """Opens an address; at the end nothing may have gone wrong in any page."""
    troubles: list[str] = []
    contexts = []

    def go(path: str, width: int = 1440, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, locale="en-GB", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.set_default_navigation_timeout(120_000)  # two trainers may be starting on the same cores
        page.add_init_script(WATCH)
        page.on("console", lambda m: troubles.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(stack.url + path)
        return page

    yield go
    for context in contexts:
        context.close()
    assert troubles == []


def external(stack: Stack, name: str, accuracy: float | None, *, finish: bool = True, **params: Any) -> str:
    with stack.http as http:
        body = {"external": True, "name": name, "params": params}
        run: str = http.post("/api/v1/runs", json=body).json()["id"]
        if accuracy is not None:
            send(stack, run, 1, accuracy)
        if finish:
            http.post(f"/api/v1/runs/{run}/finish", json={"state": "finished"})
    return run


def send(stack: Stack, run: str, step: int, accuracy: float) -> None:
    values = {
        "val/accuracy": [accuracy],
        "val/loss": [1 - accuracy],
        "train/loss": [1.0],
        "train/accuracy": [0.5],
    }
    with stack.http as http:
        http.post(f"/api/v1/runs/{run}/metrics", json={"step": [step], "values": values}).raise_for_status()


def address(*runs: str, **more: str) -> str:
    pairs = [f"run={run}" for run in runs] + [f"{name}={value}" for name, value in more.items()]
    return f"/compare?{'&'.join(pairs)}"


def sweep(stack: Stack, count: int = 5) -> list[str]:
    return [external(stack, f"trial {i}", 0.5 + i / 20, lr=0.01 * (i + 1), width=64) for i in range(count)]


def order(page: Page) -> list[str]:
    return page.locator("[data-summary] tbody th bdi").all_inner_texts()


def mark(page: Page) -> None:
    page.evaluate("() => { window.stayed = true; }")


def stayed(page: Page) -> bool:
    same: bool = page.evaluate("() => window.stayed === true")
    return same


def test_a_click_on_a_heading_sorts_in_place_and_the_address_keeps_it(
    stack: Stack, open_page: OpenPage
) -> None:
    runs = [
        external(stack, name, value)
        for name, value in (("mid", 0.5), ("none", None), ("top", 0.9), ("low", 0.1))
    ]
    page = open_page(address(*runs))
    mark(page)
    best = page.locator("[data-summary] button.sort", has_text="best").first
    best.click()
    assert order(page) == ["top", "mid", "low", "none"]
    expect(page.locator("[data-summary] th[aria-sort]")).to_have_attribute("aria-sort", "descending")
    best.click()
    assert order(page) == ["low", "mid", "top", "none"]
    assert stayed(page)
    assert "sort=val%2Faccuracy%3Abest" in page.url
    page.reload()
    assert order(page) == ["low", "mid", "top", "none"]
    expect(page.locator("[data-summary] th[aria-sort]")).to_have_attribute("aria-sort", "ascending")


def test_sorting_and_starring_need_no_script(stack: Stack, open_page: OpenPage) -> None:
    runs = [external(stack, name, value) for name, value in (("a", 0.5), ("b", 0.9))]
    page = open_page(address(*runs), java_script_enabled=False)
    page.locator("[data-summary] button.sort", has_text="best").first.click()
    assert order(page) == ["b", "a"]
    page.locator("[data-summary] .star").first.click()
    expect(page.locator(".delta").first).to_have_text(re.compile("−40.00 points"))
    assert order(page) == ["b", "a"], "the order stays in the address"
    assert f"baseline={runs[1]}" in page.url


def test_a_star_compares_with_its_run_without_reloading(stack: Stack, open_page: OpenPage) -> None:
    runs = [external(stack, name, value, lr=lr) for name, value, lr in (("a", 0.5, 0.1), ("b", 0.9, 0.4))]
    page = open_page(address(*runs))
    mark(page)
    star = page.locator("[data-summary] .star").first
    star.click()
    expect(page.locator("[data-summary] .delta-better").first).to_contain_text("+40.00 points")
    expect(page.locator("#settings .odd")).to_contain_text("×4")
    expect(star).to_be_focused()
    expect(star).to_have_attribute("aria-pressed", "true")
    assert f"baseline={runs[0]}" in page.url
    star.click()
    expect(page.locator("[data-summary] .delta")).to_have_count(0)
    assert "baseline" not in page.url
    assert stayed(page)


def test_a_brush_keeps_the_runs_in_between(stack: Stack, open_page: OpenPage) -> None:
    runs = sweep(stack)
    page = open_page(address(*runs))
    panel = page.locator("[data-sweep]")
    panel.scroll_into_view_if_needed()
    expect(panel.locator(".parallel-line")).to_have_count(5)
    grip = panel.locator(".axis-grip").first
    box = grip.bounding_box()
    assert box is not None
    x = box["x"] + box["width"] / 2
    page.mouse.move(x, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(x, box["y"] + 0.42 * box["height"], steps=4)
    page.mouse.up()
    expect(panel.locator('[data-part="kept"]')).to_have_text(re.compile(r"^[234] of 5 runs kept$"))
    kept = 5 - panel.locator(".parallel-line.faded").count()
    assert kept in (2, 3, 4)
    assert panel.locator(".scatter-point.faded").count() == 5 - kept
    assert "brush=lr%2C" in page.url
    page.reload()
    expect(panel.locator('[data-part="kept"]')).to_have_text(f"{kept} of 5 runs kept")
    panel.locator('[data-part="only"]').click()
    page.wait_for_url(re.compile(r"(hide|only)="))
    panel.locator('[data-part="clear"]').click()
    expect(panel.locator(".faded")).to_have_count(0)
    assert "brush" not in page.url


def test_pointing_at_a_run_names_it_and_a_click_opens_it(stack: Stack, open_page: OpenPage) -> None:
    runs = sweep(stack)
    page = open_page(address(*runs))
    point = page.locator(".scatter-point").nth(2)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2)
    tip = page.locator("[data-sweep] .tip")
    expect(tip).to_contain_text("trial 2")
    expect(tip).to_contain_text("Learning rate: 0.03")
    expect(page.locator(".parallel-line.lit")).to_have_count(1)
    page.mouse.click(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2)
    page.wait_for_url(f"**/runs/{runs[2]}")


def test_axes_and_colours_are_chosen_and_kept_in_the_address(stack: Stack, open_page: OpenPage) -> None:
    page = open_page(address(*sweep(stack)))
    page.locator('select[name="sy"]').select_option("result:val/loss")
    expect(page.locator('[data-part="correlation"]')).to_have_text("rank correlation -1.00 (n = 5)")
    page.locator('select[name="tint"]').select_option("lr")
    before = page.locator(".axis").count()
    page.locator(".axes-choice summary").click()
    page.locator('[name="axes"]:checked').last.uncheck()
    expect(page.locator(".axis")).to_have_count(before - 1)
    page.reload()
    expect(page.locator(".axis")).to_have_count(before - 1)
    assert page.locator('select[name="sy"]').input_value() == "result:val/loss"
    assert page.locator('select[name="tint"]').input_value() == "lr"


def test_figures_follow_a_run_while_it_trains_and_nothing_jumps(stack: Stack, open_page: OpenPage) -> None:
    live = external(stack, "live", 0.25, finish=False, lr=0.1, width=64)
    other = external(stack, "other", 0.5, lr=0.2, width=64)
    page = open_page(address(live, other, cols="all"), width=900)
    page.locator("[data-summary] button.sort", has_text="best").first.click()
    assert order(page) == ["other", "live"]
    same = page.locator("#settings details.same")
    same.locator("summary").click()
    star = page.locator("[data-summary] tbody tr", has_text="live").locator(".star")
    star.focus()
    region = page.locator("#summary .table-scroll")
    region.evaluate("element => { element.scrollLeft = 60; }")
    mark(page)
    send(stack, live, 2, 0.75)
    cell = page.locator("[data-summary] tbody tr", has_text="live").locator("td", has_text="75.00 %").first
    expect(cell).to_be_attached(timeout=60_000)
    assert order(page) == ["live", "other"], "sorted by the new figures"
    expect(star).to_be_focused()
    expect(same).to_have_attribute("open", "")
    assert region.evaluate("element => element.scrollLeft") == 60
    assert stayed(page)


def test_the_button_of_the_verdict_makes_the_comparison_fair(stack: Stack, open_page: OpenPage) -> None:
    runs = []
    with stack.http as http:
        for model, batch_size in (("lenet", 64), ("resnet8", 256)):
            spec = {
                "model": model,
                "dataset": "digits",
                "train_size": 256,
                "epochs": 1,
                "batch_size": batch_size,
            }
            runs.append(http.post("/api/v1/runs", json={"spec": spec, "name": model}).json()["id"])
    page = open_page(address(*runs))
    verdict = page.locator("section.verdict")
    expect(verdict.locator("h2")).to_have_text("Confounded by batch size 64 → 256")
    verdict.get_by_role("button", name="Re-run the odd one with matched settings").click()
    page.wait_for_url(lambda url: runs[1] not in url)
    expect(page.locator(".card", has_text="resnet8 · matched")).to_be_visible()
    mark(page)
    expect(verdict.locator("h2")).to_have_text("Controlled: only the model differs", timeout=120_000)
    assert stayed(page), "followed without reloading"


@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_sticks_out(stack: Stack, open_page: OpenPage, width: int) -> None:
    page = open_page(address(*sweep(stack), cols="all"), width=width)
    page.locator("[data-sweep]").scroll_into_view_if_needed()
    expect(page.locator(".scatter-point").first).to_be_attached()
    assert no_sideways_scroll(page)
