"""Texts for people, through gettext. There is one language so far: translations are empty."""

from __future__ import annotations

from gettext import NullTranslations

TRANSLATIONS = NullTranslations()


def _(text: str) -> str:
    return TRANSLATIONS.gettext(text)


def ngettext(one: str, many: str, count: int) -> str:
    return TRANSLATIONS.ngettext(one, many, count)
