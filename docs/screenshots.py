"""Make the README's pictures of a running server: `python -m docs.screenshots URL` (the address of a page).

Needs Chromium and `make test` before it. Writes docs/images/compare-light.png and compare-dark.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.browser import CURVE, chromium
from tests.tour import settle

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    (url,) = sys.argv[1:]
    IMAGES.mkdir(exist_ok=True)
    with chromium() as browser:
        for scheme in ("light", "dark"):
            size = {"width": 1440, "height": 1000}
            page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(url)
            page.locator(CURVE).first.wait_for(state="attached")
            settle(page)
            page.screenshot(path=IMAGES / f"compare-{scheme}.png")


if __name__ == "__main__":
    main()
