"""Every `trainyard` command in the documents exists, with the flags that are shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from app.settings import ROOT, Settings
from trainyard.cli import app

DOCUMENTS = ("docs/operations.md", "docs/datasets.md", "README.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(trainyard [^`\n]+)`")


def commands(document: str) -> Iterator[str]:
    """Lines of plain code blocks, and code within sentences."""
    text = (ROOT / document).read_text()
    for language, block in BLOCK.findall(text):
        if not language:
            yield from (line for line in block.splitlines() if line.startswith("trainyard "))
    yield from INLINE.findall(BLOCK.sub("", text))


SHOWN = sorted({(document, line) for document in DOCUMENTS for line in commands(document)})


@pytest.mark.parametrize(("document", "line"), SHOWN, ids=[line for _, line in SHOWN])
def test_a_command_that_is_shown_is_one(document: str, line: str) -> None:
    words = shlex.split(line.partition("#")[0].replace("...", ""))[1:]
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        if words[0] == "up|submit|watch|compare":
            return
        assert words[0] in command.commands, f"{document} shows `{line}`, and there is no such command"
        command, words = command.commands[words[0]], words[1:]
    flags = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
    for word in words:
        if word.startswith("-") and len(word) > 1:
            assert word.partition("=")[0] in flags, f"{document} shows `{line}`, and there is no {word}"


def test_commands_are_found_at_all() -> None:
    lines = {line.partition(" ")[2].split()[0] for document, line in SHOWN if document == DOCUMENTS[0]}
    assert {"doctor", "backup", "restore", "gc", "migrate", "web", "worker", "up", "drain"} <= lines


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_setting_that_is_named_is_one(document: str) -> None:
    known = {f"TRAINYARD_{name.upper()}" for name in Settings.model_fields} | {
        "TRAINYARD_URL",
        "TRAINYARD_SLOTS",
    }
    named = set(re.findall(r"TRAINYARD_[A-Z_]+", (ROOT / document).read_text()))
    assert named <= known, named - known


def test_metrics_that_are_named_exist() -> None:
    sources = ("app/api/monitoring.py", "app/traffic.py", "app/counters.py")
    source = "".join((ROOT / name).read_text() for name in sources)
    named = re.findall(r"`?trainyard_([a-z_]+)", (ROOT / DOCUMENTS[0]).read_text())
    for name in named:
        plain = name.removesuffix("_total").removesuffix("_info")
        assert f'"{plain}"' in source or f"trainyard_{plain}" in source, name
