"""A real Chromium, for the page tests, the benchmarks and the README's pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]
MISSING = "no Chromium: run `playwright install chromium`, or set TRAINYARD_CHROMIUM to one"
CURVE = ".js-plotly-plot .scatterlayer path.js-line[d]"  # a series that Plotly has drawn


class NoChromium(RuntimeError):
    """There is none on this machine; the message says how to get one."""


def find_chromium(own: str) -> str | None:
    """TRAINYARD_CHROMIUM, playwright's own, or one that the system has."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = [os.environ.get("TRAINYARD_CHROMIUM"), own, *(shutil.which(name) for name in names)]
    return next((path for path in found if path and Path(path).exists()), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser. Raises: NoChromium."""
    with sync_playwright() as playwright:
        path = find_chromium(playwright.chromium.executable_path)
        if path is None:
            raise NoChromium(MISSING)
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def no_sideways_scroll(page: Page) -> bool:
    """Nothing is wider than the screen, once the page is there: a click that leads to another does not wait for it."""
    page.wait_for_load_state()
    fits: bool = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    return fits
