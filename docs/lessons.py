"""Measures the lesson of the homework's recipe on real MNIST, and draws its charts.

    python -m docs.lessons measure [NAME...]    # docs/lessons/figures.json, about a minute a recipe on one CPU core
    python -m docs.lessons draw                 # docs/lessons/*.svg from it

Every recipe is what a run of Trainyard does: the same RunSpec, the same loop, seed 0, one thread. MNIST is read from
TRAINYARD_DATASETS.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "lessons"
FIGURES = FOLDER / "figures.json"
POINTS = 120  # of a loss curve: each the mean of so many steps that all fit
EPOCHS = 6

PRINTED: dict[str, Any] = {
    "model": "lenet",
    "dataset": "mnist",
    "batch_size": 64,
    "lr": 0.01,
    "optimizer": "sgd",
    "epochs": EPOCHS,
    "input_scaling": "unit",
}


class Recipe(NamedTuple):
    """A line of the charts: what it changes in the homework's recipe. `seed` replicates it."""

    title: str
    change: dict[str, Any]


RECIPES: dict[str, Recipe] = {
    "unit": Recipe("As printed, pixels 0..1", {}),
    "standardize": Recipe("As printed, pixels standardized", {"input_scaling": "standardize"}),
    "raw": Recipe("As printed, pixels 0..255", {"input_scaling": "raw"}),
    "xavier": Recipe("Xavier, learning rate 0.5", {"lr": 0.5, "model_options": {"init": "xavier"}}),
    "momentum": Recipe("Momentum 0.9", {"momentum": 0.9}),
    "relu": Recipe("ReLU", {"model_options": {"activation": "relu"}}),
    "adamw": Recipe("AdamW, learning rate 0.005", {"optimizer": "adamw", "lr": 0.005}),
}


# -- measure --------------------------------------------------------------------------------------------------


def measure(names: list[str], seeds: list[int], folder: Path) -> None:
    """Train each recipe with each seed and write its figures at once, so that a measurement can be interrupted."""
    import torch  # the charts need none

    from ml.data import load_dataset
    from ml.spec import RunSpec

    torch.set_num_threads(1)
    data = load_dataset("mnist", folder)
    for name in names:
        for seed in seeds:
            figures = read_figures()
            spec = RunSpec(**{**PRINTED, **RECIPES[name].change, "seed": seed})
            figures["torch"] = torch.__version__
            figures["recipes"].setdefault(name, {})[str(seed)] = train_once(spec, data)
            write_figures(figures)


def train_once(spec: Any, data: Any) -> dict[str, Any]:
    """One training: the curve of its losses, and validation loss and accuracy after each epoch."""
    import torch

    from ml.events import Evaluated, Points
    from ml.train import train

    losses: list[float] = []
    evaluations: list[list[float]] = []
    began = time.perf_counter()
    for event in train(spec, data, device=torch.device("cpu")):
        if isinstance(event, Points):
            losses += event.values["train/loss"]
        elif isinstance(event, Evaluated):
            evaluations.append([event.epoch, round(event.loss, 4), round(100 * event.accuracy, 2)])
            print(spec.seed, evaluations[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
    every = -(-len(losses) // POINTS)
    blocks = [losses[i : i + every] for i in range(0, len(losses), every)]
    curve = [[i * every + len(b), round(statistics.fmean(b), 4)] for i, b in enumerate(blocks)]
    return {"steps": len(losses), "loss": curve, "validation": evaluations}


def read_figures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {"recipes": {}}
    return found


def write_figures(figures: dict[str, Any]) -> None:
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(figures, separators=(",", ":")).replace('"},', '"},\n') + "\n")


# -- draw -----------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 56, 250, 34, 44  # room for axes and, on the right, for the lines' names
LABEL_PX = 17  # between two names
# Okabe and Ito's colours, as the pages have them: light, dark.
COLOURS = (
    ("#6e6a61", "#b5b1a8"),
    ("#1667b0", "#5eaef5"),
    ("#d4500f", "#ff8a55"),
    ("#0a8a66", "#3ccb9d"),
    ("#b0479b", "#e98bd0"),
    ("#b98500", "#eebb3f"),
)
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1d2127; }
  .muted { fill: #5d636d; }
  .title { font-weight: 600; font-size: 14px; }
  .grid { stroke: #dfdcd5; }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
"""
DARK = """
  text { fill: #e8e6e1; }
  .muted { fill: #a0a5ae; }
  .grid { stroke: #2d3138; }
"""


class Line(NamedTuple):
    """`points` are (x, y); equal colours share one, and dashes tell them apart."""

    title: str
    points: list[tuple[float, float]]
    colour: int
    dash: str = ""


class Chart(NamedTuple):
    title: str
    x_title: str
    lines: list[Line]
    y_ticks: list[tuple[float, str]]
    x_ticks: list[tuple[float, str]]


def draw() -> None:
    recipes = read_figures()["recipes"]
    for name, chart in (("accuracy", accuracy_chart(recipes)), ("loss", loss_chart(recipes))):
        (FOLDER / f"homework-{name}.svg").write_text(render(chart))


PRINTED_NAMES, CHANGED = ("unit", "standardize", "raw"), ("momentum", "xavier", "relu", "adamw")
DASHES = ("", "7 4", "2 3")


def accuracy_chart(recipes: dict[str, Any]) -> Chart:
    lines = [
        Line(title(name), [(e[0], e[2]) for e in recipes[name]["0"]["validation"]], colour, dash)
        for name, colour, dash in looks(recipes)
    ]
    return Chart(
        "Validation accuracy on MNIST, %",
        "epoch",
        lines,
        [(y, str(y)) for y in range(0, 101, 20)],
        [(x, str(x)) for x in range(1, EPOCHS + 1)],
    )


def loss_chart(recipes: dict[str, Any]) -> Chart:
    steps = recipes["unit"]["0"]["steps"] // EPOCHS
    lines = [
        Line(title(name), [(step / steps, loss) for step, loss in recipes[name]["0"]["loss"]], colour, dash)
        for name, colour, dash in looks(recipes)
    ]
    return Chart(
        "Training loss",
        "epoch",
        lines,
        [(y / 2, f"{y / 2:g}") for y in range(6)],
        [(x, str(x)) for x in range(EPOCHS + 1)],
    )


def looks(recipes: dict[str, Any]) -> list[tuple[str, int, str]]:
    """Recipe, colour and dash of each line that was measured: the printed ones in grey, as they lie on each other."""
    printed = [(name, 0, dash) for name, dash in zip(PRINTED_NAMES, DASHES, strict=True)]
    return printed + [(name, i, "") for i, name in enumerate(CHANGED, 1) if name in recipes]


def title(name: str) -> str:
    return RECIPES[name].title


def render(chart: Chart) -> str:
    """The chart as an SVG for light and dark pages."""
    x0, x1 = chart.x_ticks[0][0], chart.x_ticks[-1][0]
    y0, y1 = chart.y_ticks[0][0], chart.y_ticks[-1][0]

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return right, HEIGHT - BOTTOM - (min(y, y1) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text class="title" x="{LEFT}" y="20">{escape(chart.title)}</text>']
    for value, text in chart.y_ticks:
        _, y = place(x0, value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="muted" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for value, text in chart.x_ticks:
        x, _ = place(value, y0)
        parts.append(
            f'<text class="muted" x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{text}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="muted" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{chart.x_title}</text>'
    )
    ends = spread([place(*line.points[-1])[1] for line in chart.lines])
    for line, y_label in zip(chart.lines, ends, strict=True):
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in line.points))
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        parts.append(f'<path class="line c{line.colour}"{dash} d="M{path}"/>')
        x_label = WIDTH - RIGHT + 12
        parts.append(f'<path class="line c{line.colour}"{dash} d="M{x_label} {y_label:.1f}h22"/>')
        parts.append(f'<text x="{x_label + 30}" y="{y_label + 4:.1f}">{escape(line.title)}</text>')
    light = "".join(f"  .c{i} {{ stroke: {c[0]}; }}\n" for i, c in enumerate(COLOURS))
    dark = "".join(f"  .c{i} {{ stroke: {c[1]}; }}\n" for i, c in enumerate(COLOURS))
    style = f"{STYLE}{light}  @media (prefers-color-scheme: dark) {{{DARK}{dark}  }}\n"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    return "\n".join(
        [head, f"<title>{escape(chart.title)}</title>", f"<style>{style}</style>", *parts, "</svg>\n"]
    )


def spread(places: list[float]) -> list[float]:
    """Heights of names near those of their lines' ends, none over another."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = list(places)
    for before, after in itertools.pairwise(order):
        found[after] = max(found[after], found[before] + LABEL_PX)
    over = max(0.0, max(found) - (HEIGHT - BOTTOM))
    found[order[-1]] -= over
    for after, before in zip(reversed(order), list(reversed(order))[1:], strict=False):
        found[before] = min(found[before], found[after] - LABEL_PX)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    asked = commands.add_parser("measure")
    asked.add_argument("names", nargs="*", default=list(RECIPES), choices=list(RECIPES), metavar="NAME")
    asked.add_argument("--seeds", type=int, nargs="+", default=[0])
    commands.add_parser("draw")
    args = parser.parse_args()
    if args.command == "draw":
        draw()
    else:
        measure(args.names, args.seeds, Path(os.environ.get("TRAINYARD_DATASETS", "datasets")))


if __name__ == "__main__":
    main()
