r"""The search language, as text and as a tree: ``node:Login status:stuck since:yesterday -"connection reset"``.

Contract: :func:`parse` makes a tree of a text, or raises :class:`QuerySyntaxError` with the position of the mistake, and nothing
else. :func:`show` writes a tree as text; ``parse(show(tree)) == tree``.

::

    or      = and, {("OR" | "|"), and}
    and     = not, {["AND"], not}
    not     = {"NOT" | "-"}, (field | text | "(", or, ")")
    field   = name, (":" | ">" | ">=" | "<" | "<="), value, {",", value}      no blanks inside
    value   = (bare | quoted), ["*"]  |  "*"
    text    = (bare | quoted), ["*"]

In quotes ``\"`` and ``\\`` stand for a quote and a backslash. Outside: which fields there are and what they mean
(``perdure.gateway.search.fields``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from perdure.chassis.errors import RefusedError

MAX_DEPTH: Final = 30
OPERATORS: Final = (":", ">=", "<=", ">", "<")
KEYWORDS: Final = frozenset({"AND", "OR", "NOT"})

_FIELD: Final = re.compile(r"(metadata\.[^\s:<>()\"|,]+|[A-Za-z_][A-Za-z0-9_.]*)(:|>=|<=|>|<)")
_WORD: Final = re.compile(r"[^\s()\"|]+")
_BARE: Final = re.compile(r"[^\s()\"|,]+")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_BLANK: Final = re.compile(r"\s*")


class QuerySyntaxError(RefusedError):
    """The text is no query.

    Attributes:
        position: Where the mistake is, in characters from 0.
        detail: What is wrong there and what would be right.

    """

    def __init__(self, position: int, detail: str) -> None:
        super().__init__(f"at {position}: {detail}")
        self.position = position
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Text:
    """These words, one after the other, somewhere in what is searched; with ``prefix`` the last one only begins so."""

    text: str
    prefix: bool = False
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a field; with ``prefix`` one that begins so (an empty one: any value at all)."""

    text: str
    prefix: bool = False
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Field:
    """A field compares so with one of the values."""

    name: str
    operator: str
    values: tuple[Value, ...]
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Not:
    """Everything else."""

    operand: Node


@dataclass(frozen=True, slots=True)
class And:
    """All of two or more."""

    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of two or more."""

    operands: tuple[Node, ...]


Node = Text | Field | Not | And | Or


def parse(text: str) -> Node | None:
    """The tree of a query; ``None`` if it is blank.

    Raises:
        QuerySyntaxError: it is no query.

    """
    return _Parser(text).query()


def show(node: Node) -> str:
    """The query of a tree."""
    match node:
        case Text():
            return _shown(node.text, node.prefix, _WORD, quoted=_reads_otherwise(node.text))
        case Field():
            values = ",".join(_shown(v.text, v.prefix, _BARE, quoted=v.text.startswith("=")) for v in node.values)
            return f"{node.name}{node.operator}{values}"
        case Not():
            return f"NOT {_nested(node.operand)}"
        case And():
            return " ".join(map(_nested, node.operands))
        case Or():
            return " OR ".join(map(_nested, node.operands))


def _nested(node: Node) -> str:
    return f"({show(node)})" if isinstance(node, And | Or) else show(node)


def _reads_otherwise(word: str) -> bool:
    return word in KEYWORDS or word.startswith("-") or _FIELD.match(word) is not None


def _shown(text: str, prefix: bool, bare: re.Pattern[str], *, quoted: bool) -> str:
    star = "*" if prefix else ""
    if not text or (not quoted and bare.fullmatch(text) and not text.endswith("*")):
        return text + star
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"{star}'


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def query(self) -> Node | None:
        self._skip()
        if self._ended():
            return None
        node = self._or()
        if not self._ended():
            raise QuerySyntaxError(self._at, "this ) closes nothing")
        return node

    def _or(self) -> Node:
        operands = [self._and()]
        while self._take("|") or self._take_word("OR"):
            operands.append(self._and())
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def _and(self) -> Node:
        operands = [self._not()]
        while not self._ended():
            if self._text[self._at] in ")|" or self._is_word("OR"):
                break
            self._take_word("AND")
            operands.append(self._not())
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def _not(self) -> Node:
        self._skip()
        if self._take_word("NOT") or self._take("-"):
            self._deeper()
            node = Not(self._not())
            self._depth -= 1
            return node
        return self._primary()

    def _primary(self) -> Node:
        start = self._at
        if self._ended() or self._text[start] in ")|" or self._is_word("OR") or self._is_word("AND"):
            raise QuerySyntaxError(start, "a condition or a word is missing here")
        if self._take("("):
            self._deeper()
            node = self._or()
            if not self._take(")"):
                raise QuerySyntaxError(start, "this ( is not closed")
            self._depth -= 1
            return node
        if match := _FIELD.match(self._text, start):
            return self._field(match)
        text, prefix = self._value(_WORD)
        if not text:
            raise QuerySyntaxError(start, "words are missing: write some, or a field and what it should be")
        self._skip()
        return Text(text, prefix, start)

    def _field(self, match: re.Match[str]) -> Field:
        start, self._at = self._at, match.end()
        values: list[Value] = []
        while True:
            at = self._at
            text, prefix = self._value(_BARE)
            if not text and not prefix:
                raise QuerySyntaxError(at, f"a value is missing after {self._text[start:at]}")
            values.append(Value(text, prefix, at))
            if self._ended() or self._text[self._at] != ",":
                break
            self._at += 1
        self._skip()
        return Field(match[1], match[2], tuple(values), start)

    def _value(self, bare: re.Pattern[str]) -> tuple[str, bool]:
        """A bare or quoted value and whether it is a prefix; empty if there is none."""
        if not self._ended() and self._text[self._at] == '"':
            match = _QUOTED.match(self._text, self._at)
            if match is None:
                raise QuerySyntaxError(self._at, "this quote is not closed")
            self._at = match.end()
            prefix = self._text.startswith("*", self._at)
            self._at += prefix
            if not match[1]:
                raise QuerySyntaxError(match.start(), "there is nothing between these quotes")
            return _ESCAPE.sub(r"\1", match[1]), prefix
        match = bare.match(self._text, self._at)
        if match is None:
            return "", False
        self._at = match.end()
        word = match[0]
        return (word[:-1], True) if word.endswith("*") else (word, False)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise QuerySyntaxError(self._at, f"this is nested more than {MAX_DEPTH} deep")

    def _ended(self) -> bool:
        return self._at >= len(self._text)

    def _skip(self) -> None:
        match = _BLANK.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _take(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        self._skip()
        return True

    def _is_word(self, word: str) -> bool:
        match = _WORD.match(self._text, self._at)
        return match is not None and match[0] == word

    def _take_word(self, word: str) -> bool:
        if not self._is_word(word):
            return False
        self._at += len(word)
        self._skip()
        return True
