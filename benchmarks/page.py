"""A hundred runs on one page, in Chromium without a GPU: `python -m benchmarks.page`.

The runs are written straight into the database, 10,000 points of four training metrics and 20 of two validation
metrics each. Web process, Chromium and this script share the machine. Before it, what decided how curves are drawn:
Plotly's SVG `scatter` against its `scattergl`, on the same points.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from playwright.sync_api import Browser, Page

from app import runs, series
from app.chunks import Floats
from app.db import Database, now
from app.main import PLOTLY_DIR
from app.runs import NewRun
from benchmarks.table import heading, percentile, row
from tests import processes
from tests.browser import chromium

VIEWPORT: Any = {"width": 1440, "height": 900}
TRAINING = ("train/loss", "train/accuracy", "train/lr", "system/memory")
VALIDATION = ("val/loss", "val/accuracy")

# Long tasks (over 50 ms, as browsers count them) and the times between frames, from the start of the page on.
WATCH = """
window.__long = [];
window.__frames = [];
new PerformanceObserver((list) => list.getEntries().forEach((e) => window.__long.push([e.startTime, e.duration])))
  .observe({type: "longtask", buffered: true});
let before = performance.now();
(function tick() {
  const at = performance.now();
  window.__frames.push([at, at - before]);
  before = at;
  requestAnimationFrame(tick);
})();
"""

ENGINE = """
async ([type, lines, points]) => {
  document.body.innerHTML = '<div id=plot></div>';
  const x = Float64Array.from({length: points}, (_, i) => i);
  const data = Array.from({length: lines}, (_, k) => (
    {type, x, y: x.map((i) => 2 / (1 + 8 * i / points) + 0.2 * Math.random() + 0.004 * k), mode: 'lines',
     hoverinfo: 'skip'}));
  const layout = {width: 560, height: 280, hovermode: false, showlegend: false,
                  xaxis: {range: [0, points]}, yaxis: {range: [0, 3]}};
  const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const start = performance.now();
  await Plotly.newPlot('plot', data, layout);
  await painted();
  const first = performance.now() - start;
  const moves = [];
  for (let k = 1; k <= 5; k++) {
    const at = performance.now();
    await Plotly.relayout('plot', {'xaxis.range': [k * points / 20, points]});
    await painted();
    moves.push(performance.now() - at);
  }
  return {first, moves};
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as home, chromium() as browser:
        compare_engines(browser, args.repeats)
        directory = Path(home)
        with processes.redis_server(directory) as redis:
            env = processes.trainyard_env(directory, broker_url=redis.broker_url)
            processes.migrate(env)
            ids = seed(directory / "trainyard.db", args.runs, args.points)
            with processes.web_process(env, directory=directory) as web:
                address = f"{web.url}/compare?" + urlencode([("run", run_id) for run_id in ids])
                measure_page(browser, address, args.runs, args.points, args.repeats)


def seed(path: Path, count: int, points: int) -> list[str]:
    """External runs with the shape of trainings: falling losses with skewed noise, rising accuracies."""
    database = Database(f"sqlite:///{path}")
    steps, rare = np.arange(1, points + 1), np.arange(1, 21) * (points // 20)
    ids = []
    for k in range(count):
        rng = np.random.default_rng(k)
        with database.begin() as s:
            params = {
                "model": ("lenet", "alexnet", "resnet8")[k % 3],
                "lr": 10.0 ** -(1 + k // 3 % 3),
                "seed": k // 9,
            }
            run, _created = runs.create_run(s, NewRun(None, f"run {k}", params=params), max_queued=count)
            at = now(s)
            blocks = {
                name: series.make_block(steps, np.asarray(at + steps * 0.01), _curve(name, steps, rng))
                for name in TRAINING
            } | {
                name: series.make_block(rare, np.asarray(at + rare * 0.01), _curve(name, rare, rng))
                for name in VALIDATION
            }
            runs.append_external(s, run.id, None, blocks)
            runs.finish_external(s, run.id, "finished", None)
            ids.append(run.id)
    database.dispose()
    return ids


def _curve(name: str, steps: Any, rng: np.random.Generator) -> Floats:
    falling = np.exp(-steps / steps[-1] * rng.uniform(4, 9))
    if name.endswith("lr"):
        return np.asarray(0.1 * falling)
    noise = rng.gamma(9.0, 1 / 9, len(steps))
    curve = (0.2 + 2 * falling) * noise if name.endswith("loss") else 1 - falling * noise
    return np.asarray(curve)


# -- which way to draw ----------------------------------------------------------------------------------------------


def compare_engines(browser: Browser, repeats: int) -> None:
    heading("100 lines in one Plotly chart, Chromium without a GPU")
    page = browser.new_page(viewport=VIEWPORT)
    page.set_content("<body></body>")
    page.add_script_tag(path=PLOTLY_DIR / "plotly.min.js")
    page.evaluate(ENGINE, ["scatter", 5, 50])  # compiled, as for the second chart of a page
    for points in (300, 1_000):
        for kind in ("scatter", "scattergl"):
            found = [page.evaluate(ENGINE, [kind, 100, points]) for _ in range(repeats)]
            row(f"{kind}, {points} points: first drawing", [one["first"] for one in found], "ms")
            row(f"{kind}, {points} points: one move", [move for one in found for move in one["moves"]], "ms")
    page.close()


# -- the page -------------------------------------------------------------------------------------------------------


def measure_page(browser: Browser, address: str, count: int, points: int, repeats: int) -> None:
    found = [visit(browser, address, count) for _ in range(repeats + 1)][
        1:
    ]  # the first fills the server's caches
    heading(f"{count} runs x {points:,} points on one page")

    def told(name: str, key: str, unit: str, goal: str = "") -> None:
        row(name, [one[key] for one in found], unit, goal)

    told("first paint", "paint", "s", "< 2 s")
    told("first chart with all its curves", "chart", "s")
    told("all charts on the screen", "all", "s")
    told("of that the main thread's own CPU time", "busy", "s")
    told("requests until then", "requests", "")
    told("received until then", "received", "MB")
    told("JS heap after a collection", "heap", "MB")
    told("JS heap after scrolling through", "heap_scrolled", "MB")
    told("dragging 3 s: time between frames, median", "frame_p50", "ms")
    told("dragging 3 s: time between frames, 95 %", "frame_p95", "ms")
    told("dragging 3 s: the main thread's own CPU time", "drag_busy", "s")
    told("dragging 3 s: longest task", "long_drag", "ms")
    told("after the drag: longest task", "long_after", "ms")
    told("after the drag: until the window is fine", "fine", "s")


def visit(browser: Browser, address: str, count: int) -> dict[str, float]:
    context = browser.new_context(viewport=VIEWPORT)
    page = context.new_page()
    page.add_init_script(WATCH)
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    start = time.perf_counter()
    page.goto(address, wait_until="commit")
    drawn = f"(p) => p.data && p.data.length >= {count}"
    plot = page.locator(".chart-plot").first
    page.wait_for_selector(".chart-plot.js-plotly-plot", state="attached", timeout=120_000)
    page.wait_for_function(drawn, arg=plot.element_handle())
    chart = time.perf_counter() - start
    page.wait_for_function(
        "() => [...document.querySelectorAll('.chart')].every(c => c.getBoundingClientRect().top > innerHeight"
        " || c.querySelector('.js-plotly-plot'))"
    )
    shown = time.perf_counter() - start
    busy = main_thread(session)
    network = page.evaluate(
        "() => performance.getEntriesByType('resource').reduce(([n, b], e) => [n + 1, b + e.transferSize], [1, 0])"
    )
    paint = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
    page.wait_for_timeout(1500)
    figures = {
        "paint": paint,
        "chart": chart,
        "all": shown,
        "requests": network[0],
        "received": network[1] / 1e6,
    }
    figures |= {"busy": busy, "heap": heap(session)} | drag(page, session)
    page.keyboard.press("End")
    page.wait_for_timeout(1500)
    figures["heap_scrolled"] = heap(session)
    context.close()
    return figures


def heap(session: Any) -> float:
    session.send("HeapProfiler.collectGarbage")
    used: float = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
    return used


def main_thread(session: Any) -> float:
    """Seconds of CPU that the page's main thread had: what a machine with other work cannot stretch."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))


def drag(page: Page, session: Any) -> dict[str, float]:
    """Zooms into half of the first chart, then moves it about for three seconds with shift held."""
    area = page.locator(".chart-plot .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    x, y, width = box["x"], box["y"] + box["height"] / 2, box["width"]
    stroke(page, lambda part: (x + width * (0.25 + 0.5 * part), y), 0.5)
    page.wait_for_timeout(2500)
    page.keyboard.down("Shift")
    begun, before = page.evaluate("performance.now()"), main_thread(session)
    stroke(page, lambda part: (x + width * (0.5 + 0.3 * np.sin(12 * part)), y), 3.0)
    page.keyboard.up("Shift")
    ended, after_drag = page.evaluate("performance.now()"), main_thread(session)
    fine = wait_for_fine(page)
    page.wait_for_timeout(1000)
    frames = page.evaluate(f"window.__frames.filter(f => f[0] > {begun} && f[0] < {ended}).map(f => f[1])")
    tasks = page.evaluate("window.__long")
    during = [length for at, length in tasks if begun <= at < ended]
    after = [length for at, length in tasks if at >= ended]
    return {
        "frame_p50": percentile(frames, 0.5),
        "frame_p95": percentile(frames, 0.95),
        "drag_busy": after_drag - before,
        "long_drag": max(during, default=0),
        "long_after": max(after, default=0),
        "fine": fine,
    }


def stroke(page: Page, place: Callable[[float], tuple[float, float]], seconds: float) -> None:
    page.mouse.move(*place(0))
    page.mouse.down()
    start = time.perf_counter()
    while (part := (time.perf_counter() - start) / seconds) < 1:
        page.mouse.move(*place(part))
    page.mouse.up()


def wait_for_fine(page: Page) -> float:
    """Seconds until the zoomed window has more points than the coarse line had there."""
    start = time.perf_counter()
    plot = page.locator(".chart-plot").first.element_handle()
    fine = """p => {
      const [low, high] = p.layout.xaxis.range;
      return p.data.find(t => t.showlegend).x.filter(x => x >= low && x <= high).length > 200;
    }"""
    page.wait_for_function(fine, arg=plot, timeout=60_000)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
