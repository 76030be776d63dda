"""What must hold on every page, in a real Chromium: axe-core finds nothing, the keyboard reaches everything, and no
English is left on Chinese ones. In one file, as the yard that they tour takes long to prepare.

Every page is seen in both looks, both languages and at both widths. `/docs` is Swagger UI in our colours: the
structure that it builds breaks three rules (SWAGGER), which only a change of that library could mend.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, ElementHandle, Page, expect

from tests import tour
from tests.tour import Yard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a tour is some forty pages

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SWAGGER = ["heading-order", "label", "nested-interactive"]
JUDGE = """async ([tags, swagger, within]) => {
  const found = await axe.run(within ?? document, { runOnly: tags, resultTypes: ["violations"] });
  return found.violations.flatMap(rule => rule.nodes.filter(
    node => !(swagger.includes(rule.id) && document.querySelector(node.target.at(-1))?.closest("#swagger"))
  ).map(node => ({
    rule: rule.id, at: node.target.join(" "), html: node.html.slice(0, 200), why: node.failureSummary,
  })));
}"""
LOOKS = [
    ("light", "en-GB", 1440),
    ("dark", "zh-CN", 390),
]


def open_page(browser: Browser, scheme: Any = "light", locale: str = "en-GB", width: int = 1440) -> Page:
    context = browser.new_context(
        color_scheme=scheme, locale=locale, viewport={"width": width, "height": 900}, reduced_motion="reduce"
    )
    return context.new_page()


def judge(page: Page, within: ElementHandle | None = None) -> list[dict[str, str]]:
    """What axe-core has to say about the page as it is now, or about a part of it."""
    page.evaluate(AXE)
    found: list[dict[str, str]] = page.evaluate(JUDGE, [TAGS, SWAGGER, within])
    return found


@pytest.mark.parametrize(("scheme", "locale", "width"), LOOKS, ids=lambda value: str(value))
def test_axe_finds_nothing_on_any_page(
    browser: Browser, yard: Yard, scheme: str, locale: str, width: int
) -> None:
    page = open_page(browser, scheme, locale, width)
    found = []
    for server, stop in yard.stops:
        page.goto(server + stop.path)
        tour.settle(page)
        found += [
            f"{stop.name}: {one['rule']} {one['at']} {one['html']}\n{one['why']}" for one in judge(page)
        ]
    page.context.close()
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("scheme", "locale", "width"), LOOKS, ids=lambda value: str(value))
def test_axe_finds_nothing_in_what_opens(
    browser: Browser, yard: Yard, scheme: str, locale: str, width: int
) -> None:
    page = open_page(browser, scheme, locale, width)
    found = []
    names = ("runs", "run-finished", "run-failed", "compare-many", "wrong-two")
    for server, stop in ((server, stop) for server, stop in yard.stops if stop.name in names):
        page.goto(server + stop.path)
        tour.settle(page)
        for part in page.locator(
            "details"
        ).element_handles():  # one at a time: a menu lies over what is below it
            part.evaluate("part => (part.open = true)")
            found += [(stop.name, one) for one in judge(page, part)]
            part.evaluate("part => (part.open = false)")
        for i in range(page.locator("dialog:not(.full-screen)").count()):
            page.evaluate("i => document.querySelectorAll('dialog:not(.full-screen)')[i].showModal()", i)
            found += [(f"{stop.name} dialog {i}", one) for one in judge(page)]
            page.keyboard.press("Escape")
    page.context.close()
    assert not found, "\n".join(f"{name}: {one}" for name, one in found)


# -- the keyboard -----------------------------------------------------------------------------------------------------


def test_the_first_stop_of_the_keyboard_skips_to_the_content(browser: Browser, yard: Yard) -> None:
    page = open_page(browser)
    page.goto(yard.full)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.context.close()


@pytest.mark.parametrize(
    "name", ["runs", "new", "compare-none", "workers", "model", "login", "run-finished", "wrong-two"]
)
def test_every_stop_of_the_keyboard_is_seen_and_in_the_order_of_the_page(
    browser: Browser, yard: Yard, name: str
) -> None:
    page = open_page(browser)
    server, path = next((server, stop.path) for server, stop in yard.stops if stop.name == name)
    page.goto(server + path)
    tour.settle(page)
    page.evaluate("document.activeElement.blur()")
    page.mouse.click(1, 1)
    seen: list[dict[str, Any]] = []
    for _ in range(200):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUSED)
        if stop is None or (seen and stop["first"]):
            break
        seen.append(stop)
    page.context.close()
    assert len(seen) > 5
    assert [stop["html"] for stop in seen if not stop["visible"]] == []
    assert [stop["html"] for stop in seen if not stop["ring"]] == []
    assert [stop["html"] for stop in seen if not stop["after"]] == [], "the order of the page"


def test_a_dialog_keeps_the_focus_and_gives_it_back(browser: Browser, yard: Yard) -> None:
    page = open_page(browser)
    page.goto(yard.full)
    opener = page.locator("[data-help-open]")
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[data-help]")
    expect(dialog).to_be_visible()
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(opener).to_be_focused()
    page.context.close()


def test_what_changes_by_itself_is_said_politely(browser: Browser, yard: Yard) -> None:
    page = open_page(browser)
    for server, stop in yard.stops:
        if stop.name.startswith(("runs", "run-running", "compare-two", "workers")):
            page.goto(server + stop.path)
            assert page.locator("[aria-live=assertive]").count() == 0, stop.name
            assert page.locator("[data-connection][role=status]").count() == 1, stop.name
            assert page.locator("[data-field][aria-live], [data-field] [role=status]").count() == 0, (
                "figures that change each second are not read out"
            )
    page.context.close()


FOCUSED = """() => {
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  const shown = element.matches("input[type=radio], input[type=checkbox]") ? element.parentElement : element;
  const box = shown.getBoundingClientRect();
  const marked = [element, element.nextElementSibling].filter(Boolean).some(part => {
    const style = getComputedStyle(part);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1.5;
  });
  const before = window.__before;
  window.__first ??= element;
  window.__before = element;
  return {
    html: element.outerHTML.slice(0, 160),
    first: element === window.__first,
    after: !before?.isConnected || Boolean(before.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING),
    visible: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight,
    ring: marked,
  };
}"""


# -- every page, as it is read ----------------------------------------------------------------------------------------

# What is the same in both languages: names of models, data, methods, formats and commands.
NAMES = re.compile(
    "Trainyard|LeNet|AlexNet|ResNet|K?MNIST|Fashion|[Dd]igits|scikit|learn|SGD|AdamW?|ReLU|Sigmoid|Tanh|Xavier|Dropout"
    "|PyTorch|Torchvision|ImageNet|CIFAR|GPU|CPU|CUDA|API|REST|JSON|[Ff][Pp]32|[Bb][Ff]16|CSV|PNG|SVG|English|openapi"
    "|json|trainyard|worker|TRAINYARD_[A-Z]+|JavaScript|Redis|NaN|Inf|Infinity|Python|AVX\\d*|cu\\d+|x86_64"
    "|input_scaling|clip_norm|on_nan|TensorBoard|Shift|Enter|Esc|Hedges|Welch|Holm|AND|NOT|[Nn]esterov|Muon|MLP|Inductor|nan|inf"
)
READ = """() => {
  const hidden = "script, style, code, pre, svg, bdi, .swagger-frame, .paper, [hidden], noscript, [lang=en]";
  const texts = [document.title];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!parent.closest(hidden) && parent.checkVisibility()) texts.push(walker.currentNode.data);
  }
  for (const text of document.querySelectorAll("svg text")) texts.push(text.textContent);
  for (const element of document.querySelectorAll("[title], [aria-label], [placeholder]")) {
    if (element.closest(".swagger-frame")) continue;
    for (const name of ["title", "aria-label", "placeholder"]) texts.push(element.getAttribute(name) ?? "");
  }
  return texts;
}"""


def leftovers(texts: list[str]) -> set[str]:
    """Latin words that neither are names nor belong to an address, a time or a metric's name."""
    found = set()
    for text in texts:
        plain = re.sub(
            r"'[^']*'|\S+/\S+|\w+\.\w+|\b[\d.]+e[+-]?\d+\b|\d{4}-\d\d-\d\dT\S+|\b[0-9a-z]{10,}\b",
            " ",
            text,
        )
        words = re.findall(r"[A-Za-z][A-Za-z_0-9]{2,}", plain)
        found |= {word for word in words if not NAMES.fullmatch(word)}
    return found


def test_no_page_shows_english_to_a_chinese_reader(browser: Browser, yard: Yard) -> None:
    page = open_page(browser, locale="zh-CN")
    trouble = {}
    for server, stop in yard.stops:
        page.goto(server + stop.path)
        tour.settle(page)
        assert page.locator("html").get_attribute("lang") == "zh-Hans"
        if words := leftovers(page.evaluate(READ)):
            trouble[stop.name] = sorted(words)
    page.context.close()
    assert trouble == {}
