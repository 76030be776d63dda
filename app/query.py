"""The text language of the search field, read into a tree: app/search.py makes SQL of it.

    query      = either
    either     = both { OR both }
    both       = not { [AND] not }
    not        = NOT not | "(" either ")" | comparison | word
    comparison = field ( = | : | != | < | <= | > | >= | ~ ) value

A word by itself is looked for in names, notes and the like. A comparison with what a run does not have is false, so
`NOT lr > 0.1` also finds runs without a learning rate, and `lr != 0.1` does not. `field = none` finds those without.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from app.errors import Invalid
from app.fields import Field, resolve, split_name

MAX_LENGTH = 1_000
MAX_DEPTH = 20
MAX_TERMS = 50
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<op>!=|<=|>=|[=<>~:])|(?P<paren>[()])"
    r'|(?P<word>(?:"[^"]*"|[^\s"()=<>~:!]|!(?!=)|(?<=\d):(?=\d))+)'
)


class Misfit(Exception):
    """What does not fit, and at which character, counted from 1."""

    def __init__(self, why: str, at: int) -> None:
        super().__init__(why)
        self.why, self.at = why, at


@contextmanager
def located(where: str) -> Iterator[None]:
    """Raises: Invalid, of the field `where`, for a Misfit."""
    try:
        yield
    except Misfit as misfit:
        at, why = misfit.at, misfit.why
        raise Invalid(f"at character {at}: {why}", where) from misfit


class Token(NamedTuple):
    """`kind`: op, paren, word or end; `at` counts characters from 1."""

    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class Word:
    text: str


@dataclass(frozen=True)
class Value:
    """The right side of a comparison; in quotes it is text, whatever it looks like."""

    text: str
    quoted: bool
    at: int


@dataclass(frozen=True)
class Compare:
    field: Field
    op: str
    value: Value


@dataclass(frozen=True)
class Not:
    part: Node


@dataclass(frozen=True)
class And:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    parts: tuple[Node, ...]


Node = Word | Compare | Not | And | Or


def parse(text: str, where: str = "q") -> Node | None:
    """The tree of a query, None for an empty one.

    Raises: Invalid, of the field `where`: at which character, what was expected there, what to do.
    """
    if len(text) > MAX_LENGTH:
        raise Invalid(f"the query is longer than {MAX_LENGTH} characters; shorten it", where)
    with located(where):
        tokens = _tokens(text)
        return _Parser(tokens).parse() if len(tokens) > 1 else None


def _tokens(text: str) -> list[Token]:
    odd = re.search("[\0\ud800-\udfff]", text)
    if odd:
        raise Misfit("this letter cannot be searched for; delete it", odd.start() + 1)
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None and text[at] == '"':
            raise Misfit('this quotation mark is never closed; add a " behind the text', at + 1)
        if match is None:
            raise Misfit(f"{text[at]} does not fit here; delete it, or write it in quotes", at + 1)
        if match.lastgroup != "space":
            tokens.append(Token(match.lastgroup or "", match.group(), at + 1))
        at = match.end()
    return [*tokens, Token("end", "", len(text) + 1)]


class _Parser:
    """Recursive descent over the tokens; one instance a query."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.place = self.depth = self.terms = 0

    @property
    def next(self) -> Token:
        return self.tokens[self.place]

    def take(self) -> Token:
        token = self.next
        self.place += token.kind != "end"
        return token

    def is_keyword(self, *words: str) -> bool:
        return self.next.kind == "word" and self.next.text.upper() in words

    def parse(self) -> Node:
        node = self.either()
        if self.next.kind != "end":
            raise Misfit(
                f"{self.next.text} does not fit here; delete it, or write it in quotes", self.next.at
            )
        return node

    def either(self) -> Node:
        parts = [self.both()]
        while self.is_keyword("OR"):
            self.take()
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self) -> Node:
        parts = [self.negated()]
        while True:
            if self.is_keyword("AND"):
                self.take()
            elif self.next.text == ")" or self.next.kind in ("end", "op") or self.is_keyword("OR"):
                return parts[0] if len(parts) == 1 else And(tuple(parts))
            parts.append(self.negated())

    def negated(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Misfit(f"more than {MAX_DEPTH} levels of NOT and parentheses; use fewer", self.next.at)
        node: Node
        if self.is_keyword("NOT") and self.tokens[self.place + 1].kind != "op":
            self.take()
            node = Not(self.negated())
        elif self.next.text == "(":
            node = self.inner()
        else:
            node = self.term()
        self.depth -= 1
        return node

    def inner(self) -> Node:
        opened = self.take()
        node = self.either()
        if self.next.text != ")":
            raise Misfit("this parenthesis is never closed; add a )", opened.at)
        self.take()
        return node

    def term(self) -> Node:
        token = self.next
        if token.kind == "end":
            raise Misfit("the query ends where a word or a comparison belongs", token.at)
        if token.kind != "word" or self.is_keyword("AND", "OR"):
            found = token.text
            raise Misfit(f"expected a word or a comparison such as lr > 0.01, found {found}", token.at)
        self.take()
        self.terms += 1
        if self.terms > MAX_TERMS:
            raise Misfit(f"more than {MAX_TERMS} terms; leave some out", token.at)
        if self.next.kind != "op":
            return Word(_plain(token.text))
        op = self.take().text
        return Compare(self.field(token), "=" if op == ":" else op, self.value())

    def field(self, token: Token) -> Field:
        try:
            return resolve(split_name(token.text), token.text, "q")
        except Invalid as error:
            raise Misfit(error.message, token.at) from error

    def value(self) -> Value:
        token = self.take()
        if token.kind == "end":
            raise Misfit("the query ends where a value belongs", token.at)
        if token.kind != "word":
            found = token.text
            raise Misfit(f"expected a value, found {found}; text with such signs needs quotes", token.at)
        return Value(_plain(token.text), token.text.startswith('"'), token.at)


def _plain(text: str) -> str:
    return text.replace('"', "")


def quote(text: str) -> str:
    """Text as a query that looks for just this."""
    return '"' + text.replace('"', " ") + '"' if text.strip() else ""
