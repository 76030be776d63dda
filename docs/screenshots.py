"""Make the README's pictures of a running server: `python docs/screenshots.py URL` (the address of a page).

Needs Chromium and `pip install playwright`. Writes docs/images/compare-light.png and compare-dark.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser import CHROMIUM, FLAGS

IMAGES = Path(__file__).parent / "images"
DRAWN = "[...document.querySelectorAll('.js-plotly-plot')].some(p => p.data.some(t => t.y && t.y.length > 0))"


def main() -> None:
    (url,) = sys.argv[1:]
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1440, "height": 1000}, color_scheme=scheme)
            page.goto(url)
            page.wait_for_function(DRAWN)
            page.screenshot(path=IMAGES / f"compare-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main()
