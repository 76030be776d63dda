"""Brings the catalogues up to date with the sources, and names what is not translated yet.

    python -m app.web.translations           # rewrites app/web/locale/*/LC_MESSAGES/trainyard.po
    python -m app.web.translations --check   # changes nothing; exit status 1 when something is missing

Texts come from four places: `_()` in app/web and app/compare, the templates, the titles and descriptions of `ml` (which
knows no gettext), and the sentences that are written in English below the web and translated where a page shows them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.pofile import read_po, write_po

from app.settings import ROOT
from app.web import forms, i18n
from ml.catalog import DATASETS, MODELS, OPTIMIZERS, SCHEDULES
from ml.presets import PRESETS
from ml.spec import RunSpec

KEYWORDS = {"_": None, "N_": None, "gettext": None, "ngettext": (1, 2)}
# Where sentences are written that reach a page: what is raised there, and what these functions return or are given.
SENTENCE_FOLDERS = ("app", "ml", "worker")
RETURNING = {
    "explain",
    "reason_to_stop",
    "what_is_missing",
    "_unknown",
    "_remedy",
    "describe_exit",
    "describe_leaving",
    "describe_return",
    "describe_shortage",
    "describe_error",
    "explain_refusal",
    "explain_compiler",
    "left_out",
    "find_caution",
    "explain_too_few",
}
RECORDING = {
    "begin",
    "remark",
    "transition",
    "_ask",
    "end",
    "end_run",
    "end_full",
    "_say",
    "release_run",
    "give_back",
    "_field_error",
    "progress",
    "Presence",
    "Done",
}
REASONS = {"reason", "why", "phase", "message", "note"}
# `trainyard dataset` alone says what those in `ml` say.
NOT_ON_PAGES = (
    "app/api", "app/security.py", "app/settings.py",
    "ml/arrays.py", "ml/imagefolder.py", "ml/npz.py", "ml/pictures.py", "ml/registered.py", "ml/registrar.py",
)  # fmt: skip


class Text(NamedTuple):
    """One text of a source: `id` is a pair for a plural."""

    id: str | tuple[str, str]
    source: str
    context: str | None = None


def texts() -> list[Text]:
    """Every text that a page may show, in the order of its source."""
    return [*_python(), *_templates(), *_ml(), *_sentences()]


def _python() -> Iterator[Text]:
    for path in sorted(
        path for folder in ("web", "compare") for path in (ROOT / "app" / folder).rglob("*.py")
    ):
        with path.open("rb") as file:
            for _line, message, *_rest in extract("python", file, keywords=KEYWORDS):
                yield Text(_as_id(message), _name(path))


def _templates() -> Iterator[Text]:
    options = {"trim_blocks": "true", "lstrip_blocks": "true", "silent": "false"}
    for path in sorted((ROOT / "templates").rglob("*.html")):
        with path.open("rb") as file:
            found = extract("jinja2.ext:babel_extract", file, keywords=KEYWORDS, options=options)
            for _line, message, *_rest in found:
                yield Text(_as_id(message), _name(path))


def _as_id(message: Any) -> str | tuple[str, str]:
    return message if isinstance(message, str) else (message[0], message[1])


def _ml() -> Iterator[Text]:
    """Titles, summaries and descriptions, and the words of closed fields' values."""
    for model in MODELS.values():
        yield from _entries(model.title, model.summary)
        yield from _fields(model.options)
    for dataset in DATASETS.values():
        yield from _entries(dataset.title, dataset.summary)
    for choice in (*OPTIMIZERS.values(), *SCHEDULES.values()):
        yield from _entries(choice.title, choice.summary)
    yield from _fields(RunSpec)
    for make in PRESETS.values():
        preset = make()
        yield from _entries(preset.title, preset.summary, *(run.name for run in preset.runs))


def _fields(model: Any) -> Iterator[Text]:
    for name, part in model.model_json_schema()["properties"].items():
        yield from _entries(part.get("title", name), part.get("description", ""))
        if not {"model", "dataset", "optimizer", "schedule"} & {name}:
            yield from _entries(*(forms.choice_title(name, value) for value in part.get("enum", ())))


def _entries(*texts: str) -> Iterator[Text]:
    return (Text(text, "ml") for text in texts if text)


# -- sentences ----------------------------------------------------------------------------------------------------


def _sentences() -> Iterator[Text]:
    for path in sorted(path for folder in SENTENCE_FOLDERS for path in (ROOT / folder).rglob("*.py")):
        name = _name(path)
        if not name.startswith(NOT_ON_PAGES):
            tree = ast.parse(path.read_text())
            for text in written(tree):
                yield Text(text, name, i18n.SENTENCE)


def written(tree: ast.AST) -> Iterator[str]:
    """The English sentences of a module as msgids: `f"there is no run {run_id!r}"` is `there is no run {run_id}`."""
    for node in ast.walk(tree):
        for expression in _expressions(node):
            for text in _variants(expression):
                letters = re.sub(r"\{\w+\}", "", text)
                if re.search(r"[a-z]{2}", letters) and not re.fullmatch(r"\w+_\w+", text):
                    yield text


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    """Where a sentence may stand in this node."""
    match node:
        case ast.Raise(exc=ast.Call(args=[first, *_])):
            yield first
        case ast.FunctionDef(name=name) if name in RETURNING:
            yield from (n.value for n in ast.walk(node) if isinstance(n, ast.Return) and n.value is not None)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            if name in RECORDING:
                yield from node.args
            if name == "_answer":  # (request, status, code, message)
                yield from node.args[3:4]
            yield from (k.value for k in node.keywords if k.arg in REASONS)
        case ast.Assign(targets=[ast.Name(id="messages" | "ASKED")], value=ast.Dict(values=values)):
            yield from values
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in REASONS:
            yield value


def _variants(node: ast.expr) -> list[str]:
    """Every text that the expression may be; none where that cannot be told from the source."""
    match node:
        case ast.Constant(value=str(text)):
            return [] if "{" in text else [text]
        case ast.JoinedStr():
            return [_template(node)]
        case ast.IfExp():
            return _variants(node.body) + _variants(node.orelse)
        case ast.List():
            return [text for part in node.elts for text in _variants(part)]
        case ast.BoolOp():
            return [text for part in node.values for text in _variants(part)]
        case ast.BinOp(op=ast.Add()):
            return [a + b for a, b in product(_variants(node.left), _variants(node.right))]
    return []


def _template(node: ast.JoinedStr) -> str:
    text, seen = "", set[str]()
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value)
        elif isinstance(part, ast.FormattedValue):
            name = plain = _placeholder(part.value)
            for i in range(2, 9):
                if name in seen:
                    name = f"{plain}{i}"
            seen.add(name)
            text += f"{{{name}}}"
    return text


def _placeholder(node: ast.expr) -> str:
    """A name for what stands in the braces: the first in it that says something to a translator."""
    parts = list(ast.walk(node))
    words = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    words += [part.attr for part in parts if isinstance(part, ast.Attribute)]
    words += [part.id for part in parts if isinstance(part, ast.Name)]
    plain = [word.strip("_").lower() for word in words]
    dull = ("join", "len", "type", "plain", "str", "get", "_name_")
    return next((word for word in plain if word.isidentifier() and word not in dull), "value")


# -- catalogues ---------------------------------------------------------------------------------------------------


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(language: str) -> Catalog:
    path = i18n.po_file(language)
    if not path.exists():
        return Catalog(locale=language)
    with path.open("rb") as file:
        return read_po(file, locale=language)


def updated(language: str) -> Catalog:
    """The catalogue with exactly the texts of the sources; nothing is guessed for new ones."""
    old = read(language)
    new = Catalog(locale=language, fuzzy=False)
    for text in texts():
        new.add(text.id, locations=[(text.source, 0)], context=text.context)
    for message in new:
        known = old.get(message.id, context=message.context) if message.id else None
        if known is not None and not known.fuzzy:
            message.string = known.string
    return new


def missing(catalog: Catalog) -> list[str]:
    """What has no translation, or a fuzzy one."""
    strings = ((m, m.string if isinstance(m.string, tuple) else (m.string,)) for m in catalog if m.id)
    return [str(message.id) for message, parts in strings if message.fuzzy or not all(parts)]


def as_text(catalog: Catalog) -> str:
    """The catalogue's file: no dates and no line numbers, so that it changes only where a text does."""
    out = BytesIO()
    write_po(out, catalog, width=110, ignore_obsolete=True, omit_header=True, include_lineno=False)
    head = f'msgid ""\nmsgstr ""\n"Language: {catalog.locale_identifier}\\n"\n' + (
        f'"Content-Type: text/plain; charset=utf-8\\n"\n"Plural-Forms: {catalog.plural_forms}\\n"\n'
    )
    return f"{head}\n{out.getvalue().decode()}"


def main(arguments: list[str]) -> int:
    failed = 0
    for language in i18n.LANGUAGES:
        if language == i18n.DEFAULT:
            continue
        catalog, path = updated(language), i18n.po_file(language)
        stale = not path.exists() or path.read_text() != as_text(catalog)
        if stale and "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(as_text(catalog))
            stale = False
        absent = missing(catalog)
        print(
            f"{language}: {len(catalog)} texts, {len(absent)} to translate{'; out of date' if stale else ''}"
        )
        for text in absent:
            print(f"  {text}")
        failed += bool(absent or stale)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
