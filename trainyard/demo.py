"""`trainyard up --demo`: LeNet, AlexNet and ResNet-8 side by side, submitted through the REST API."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime

import httpx
from rich.console import Console
from rich.text import Text

from ml.catalog import DATASETS
from ml.presets import demo
from trainyard.client import Client
from trainyard.errors import TrainyardError
from trainyard.progress import at_rest, follow
from trainyard.records import Run

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz"  # torchvision's first
REACH_S = 3.0


@dataclass(frozen=True)
class Choice:
    """The data set of the demo, and why it is that one."""

    dataset: str
    reason: str


def choose_dataset(client: Client) -> Choice:
    """MNIST when it is on disk or can be downloaded, otherwise digits, which need nothing."""
    available = {row["name"]: row["available"] for row in client.catalog()["datasets"]}
    if available.get("mnist"):
        return Choice("mnist", "MNIST is on disk.")
    if _reachable(MIRROR):
        return Choice("mnist", f"MNIST is downloaded first ({DATASETS['mnist'].download_mb} MB).")
    return Choice("digits", "MNIST is neither on disk nor reachable, so the bundled digits are used.")


def submit_demo(client: Client, dataset: str) -> list[Run]:
    """The demo's runs, new and in one experiment of their own."""
    preset = demo(dataset)
    experiment = f"{preset.title} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"
    return [
        client.submit(run.spec, name=run.name, experiment=experiment, tags=[preset.name])
        for run in preset.runs
    ]


def run_demo(url: str, token: str | None, console: Console, stop: threading.Event) -> None:
    """Submit the demo and show it until its runs have ended; what went wrong is said, not raised."""
    try:
        with Client(url, token) as client:
            choice = choose_dataset(client)
            runs = submit_demo(client, choice.dataset)
            _say(
                console,
                f"Demo     {', '.join(run.name for run in runs)} on {DATASETS[choice.dataset].title}.",
            )
            _say(console, f"         {choice.reason}")
            _say(console, f"Compare  {client.compare_url(run.id for run in runs)}")
            ended = follow(client, [run.id for run in runs], console, stop)
            if ended and all(at_rest(run) for run in ended) and not stop.is_set():
                _say(console, "The demo is done. The pages stay up until you press Ctrl-C.")
    except TrainyardError as error:
        if not stop.is_set():
            _say(console, f"The demo could not go on: {error}")


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)


def _reachable(url: str) -> bool:
    try:
        return httpx.head(url, timeout=REACH_S).is_success
    except httpx.HTTPError:
        return False
