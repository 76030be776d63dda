"""Texts for people in the reader's language: gettext catalogues, one chosen a request.

`app/web/locale/<language>/LC_MESSAGES/trainyard.po` is the only form of a catalogue. It is compiled in memory when a
page first needs it: nothing is built, and a server that is only read in English never loads Babel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path

LANGUAGES = {"en": "English", "zh": "中文"}  # how each names itself
TAGS = {"en": "en", "zh": "zh-Hans"}  # BCP 47, for `<html lang>` and Content-Language
DEFAULT = "en"
FOLDER = Path(__file__).parent / "locale"
SENTENCE = "sentence"  # msgctxt of what is written below the web: errors, events, phases
MAX_SENTENCE = 1_000  # characters that are matched with patterns

# Set once a request (app/web/language.py). Routes run in threads, to which Starlette hands a copy of the context.
language: ContextVar[str] = ContextVar("language", default=DEFAULT)


@dataclass(frozen=True)
class Catalogue:
    """One language: `sentences` are the patterns of SENTENCE, the most specific first, each with its translation."""

    messages: NullTranslations
    sentences: Sequence[tuple[re.Pattern[str], str]] = ()


def _(text: str) -> str:
    return load(language.get()).messages.gettext(text)


def ngettext(one: str, many: str, count: int) -> str:
    return load(language.get()).messages.ngettext(one, many, count)


def N_(text: str) -> str:  # noqa: N802  # gettext's usual name for a text that is translated later
    """The text itself: marks a constant for the catalogue, and `_` translates it where it is shown."""
    return text


def sentence(text: str) -> str:
    """A sentence that was written in English below the web, in an error or in the database, in the reader's language.

    `the run is failed; cancel it before you delete it` is found by its msgid `the run is {state}; cancel it ...`, and
    what stands for `{state}` is translated in the same way. What no msgid fits stays as it is.
    """
    catalogue = load(language.get())
    if len(text) > MAX_SENTENCE:
        return text
    for pattern, translation in catalogue.sentences:
        if found := pattern.fullmatch(text):
            return translation.format(**{name: sentence(value) for name, value in found.groupdict().items()})
    return catalogue.messages.gettext(text) if text else text


def po_file(name: str) -> Path:
    return FOLDER / name / "LC_MESSAGES" / "trainyard.po"


@cache
def load(name: str) -> Catalogue:
    """The catalogue of a language: English needs none, its texts are the msgids."""
    if name == DEFAULT:
        return Catalogue(NullTranslations())
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    with po_file(name).open("rb") as file:
        catalogue = read_po(file, locale=name)
    compiled = BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    known = [
        (str(message.id), str(message.string))
        for message in catalogue
        if message.context == SENTENCE and message.string
    ]
    known.sort(key=lambda pair: (-len(re.sub(r"\{\w+\}", "", pair[0])), pair[0]))
    return Catalogue(GNUTranslations(compiled), [(sentence_pattern(id_), text) for id_, text in known])


def sentence_pattern(msgid: str) -> re.Pattern[str]:
    """What fits `the run is {state} already`; a placeholder stands for one character or more."""
    parts = re.split(r"(\{\w+\})", msgid)
    text = "".join(f"(?P<{part[1:-1]}>.+?)" if part[:1] == "{" else re.escape(part) for part in parts)
    return re.compile(text, re.DOTALL)


def choose(cookie: str | None, accepted: str) -> str:
    """The language of the switch's cookie, else the best of an Accept-Language header that we have, else English."""
    if cookie in LANGUAGES:
        return cookie
    best, best_quality = DEFAULT, 0.0
    for part in accepted[:1_000].split(","):
        tag, _sep, parameters = part.strip().partition(";")
        name = tag.strip().lower().partition("-")[0]  # zh-TW and zh-HK read our simplified Chinese too
        quality = _quality(parameters)
        if name in LANGUAGES and quality > best_quality:
            best, best_quality = name, quality
    return best


def _quality(parameters: str) -> float:
    name, _sep, value = parameters.strip().partition("=")
    if not name:
        return 1.0
    try:
        return min(max(float(value), 0.0), 1.0) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0
