"""A form made from the JSON Schema of an answer, and the answer made from what was typed into it: pure functions.

Contract: :func:`form_of` makes a form for every schema: what has no field of its own is one field for JSON. The form only helps to
write an answer; whether it fits is judged by the whole schema (``perdure.registry.answers``). :func:`read` turns every field that
was filled in into exactly the JSON that its label shows, or says why it cannot.

Fields are named ``answer`` followed by the JSON Pointer of their place, so that a reason finds its field (:func:`place`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from perdure.chassis import json

ROOT: Final = "answer"
DEPTH: Final = 2
"""Objects within objects that get fields of their own; deeper ones are written as JSON."""
PROPERTIES: Final = 50
"""An object with more of them is written as JSON."""
LINE: Final = 120
"""A text that may be longer gets several lines."""
CHOICES: Final = 100
REFERENCES: Final = 8
APPROVING: Final = frozenset(
    {
        "accept",
        "accepted",
        "allow",
        "allowed",
        "approval",
        "approve",
        "approved",
        "confirm",
        "confirmed",
        "ok",
        "proceed",
    }
)
"""A required boolean of such a name is the decision that the question is about: its values are the buttons."""

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,400}")
_NUMBER: Final = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,4})?")
_REQUIRED: Final = re.compile(r"(.*) is a required property", re.DOTALL)
_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[_\-\s]+")


class Kind(StrEnum):
    """How a field is filled in."""

    DECISION = "decision"
    """Two buttons that also send the form."""
    FLAG = "flag"
    CHOICE = "choice"
    TEXT = "text"
    LINES = "lines"
    INTEGER = "integer"
    NUMBER = "number"
    GROUP = "group"
    JSON = "json"
    ANYTHING = "anything"
    """JSON, or any text: of a question without a schema."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values; ``value`` is its place among them."""

    value: str
    label: str


@dataclass(frozen=True, slots=True)
class Field:
    """A field, or a group of them.

    Attributes:
        pointer: Its place in the answer (JSON Pointer).
        key: Its name in its object; empty of the root.
        required: An answer without it does not fit.
        nullable: Left empty, it is ``null`` where it is required.
        initial: What stands in it at first, as typed.
        values: Of a choice: the values.
        fields: Of a group: its fields.

    """

    pointer: str
    key: str
    kind: Kind
    label: str
    hint: str = ""
    required: bool = True
    nullable: bool = False
    initial: str = ""
    choices: tuple[Choice, ...] = ()
    values: tuple[Any, ...] = ()
    fields: tuple[Field, ...] = ()

    @property
    def name(self) -> str:
        """The name of the form's control."""
        return ROOT + self.pointer


class NotTyped(ValueError):
    """What was typed is not a value of the field's kind."""


class _Absent:
    """The value of a field that was left out."""


_ABSENT: Final = _Absent()


def form_of(schema: Mapping[str, Any] | None) -> Field:
    """The form for an answer that fits ``schema`` (``None``: any answer)."""
    if not schema:
        return Field("", "", Kind.ANYTHING, "Your answer", 'Text as it is, or JSON such as true, 42 or {"a": 1}.')
    root = _field(schema, schema, "", "", required=True, depth=0)
    root = replace(root, label=str(schema.get("title") or "Your answer"))
    if root.kind is Kind.FLAG:
        return replace(root, kind=Kind.DECISION, label=str(schema.get("title") or "Your decision"))
    deciding = [one for one in root.fields if one.kind is Kind.FLAG and one.required and not one.nullable]
    if len(deciding) == 1 and deciding[0].key.lower() in APPROVING:
        decision = replace(deciding[0], kind=Kind.DECISION)
        others = tuple(one for one in root.fields if one is not deciding[0])
        return replace(root, fields=(*others, decision))
    return root


def decision_of(form: Field) -> Field | None:
    """The field whose values are the form's buttons."""
    return next((one for one in _all(form) if one.kind is Kind.DECISION), None)


def inputs_of(form: Field) -> list[Field]:
    """The fields that are typed or chosen, in their order: neither groups nor the buttons."""
    return [one for one in _all(form) if one.kind not in (Kind.GROUP, Kind.DECISION)]


def read(form: Field, typed: Mapping[str, str]) -> tuple[Any, dict[str, list[str]]]:
    """The answer that was typed, and by pointer what could not be read; there is no answer when there is a reason."""
    wrong: dict[str, list[str]] = {}

    def value_of(field: Field) -> Any:
        if field.kind is Kind.GROUP:
            if not field.required and not _any_typed(field, typed):
                return _ABSENT
            values = {one.key: value_of(one) for one in field.fields}
            return {key: value for key, value in values.items() if value is not _ABSENT}
        try:
            return _value(field, typed.get(field.name, ""))
        except NotTyped as error:
            wrong[field.pointer] = [str(error)]
            return _ABSENT

    answer = value_of(form)
    return (None if wrong else answer), wrong


def place(form: Field, reasons: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Reasons by the pointer of the field beside which they are shown: the one they are about, or the nearest around it."""
    places = {one.pointer for one in _all(form)}
    found: dict[str, list[str]] = {}
    for pointer, reason in reasons:
        missing = _REQUIRED.fullmatch(reason)
        child = next((one for one in _all(form) if missing and _is_child(one, pointer, missing[1])), None)
        if child is not None:
            found.setdefault(child.pointer, []).append("must be answered")
            continue
        shown = pointer
        while shown not in places:
            shown = shown.rpartition("/")[0]
        where = f"at {pointer[len(shown) :]}: " if shown != pointer else ""
        found.setdefault(shown, []).append(where + reason)
    return found


def _field(schema: Any, root: Mapping[str, Any], pointer: str, key: str, *, required: bool, depth: int) -> Field:
    schema, nullable = _plain(schema, root)
    label = str(schema.get("title") or _label(key))
    hint = str(schema.get("description") or "")
    made = Field(pointer, key, _kind(schema, depth), label, hint, required, nullable)
    values = _values(schema)
    if values is not None:
        choices = tuple(Choice(str(n), text) for n, (_, text) in enumerate(values))
        only = tuple(value for value, _ in values)
        return replace(made, choices=choices, values=only, initial=_chosen(schema, only))
    if made.kind is Kind.GROUP:
        needed = schema.get("required", [])
        inner = tuple(
            _field(one, root, f"{pointer}/{_escaped(name)}", name, required=name in needed, depth=depth + 1)
            for name, one in schema["properties"].items()
        )
        return replace(made, fields=inner)
    return replace(made, initial=_initial(made.kind, schema))


def _kind(schema: Mapping[str, Any], depth: int) -> Kind:
    if _values(schema) is not None:
        return Kind.CHOICE
    kind = schema.get("type")
    if kind == "string":
        return Kind.TEXT if schema.get("maxLength", LINE + 1) <= LINE or "pattern" in schema else Kind.LINES
    simple = {"boolean": Kind.FLAG, "integer": Kind.INTEGER, "number": Kind.NUMBER}
    if isinstance(kind, str) and kind in simple:
        return simple[kind]
    properties = schema.get("properties")
    if (
        kind in ("object", None)
        and isinstance(properties, Mapping)
        and 0 < len(properties) <= PROPERTIES
        and depth < DEPTH
    ):
        return Kind.GROUP if set(schema.get("required", ())) <= set(properties) else Kind.JSON
    return Kind.JSON


def _plain(schema: Any, root: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """A schema without references and alternatives that say only "or null"; whether null is allowed."""
    nullable = False
    for _ in range(REFERENCES):
        if not isinstance(schema, Mapping):
            return {}, nullable
        rest = {name: value for name, value in schema.items() if name not in ("$ref", "allOf", "anyOf", "oneOf")}
        alternatives = schema.get("anyOf") or schema.get("oneOf") or ()
        others = [one for one in alternatives if one != {"type": "null"}]
        if isinstance(schema.get("$ref"), str):
            schema = {**_referred(schema["$ref"], root), **rest}
        elif len(schema.get("allOf", ())) == 1 and isinstance(schema["allOf"][0], Mapping):
            schema = {**schema["allOf"][0], **rest}
        elif len(others) == 1 and isinstance(others[0], Mapping):
            nullable = nullable or len(others) < len(alternatives)
            schema = {**others[0], **rest}
        else:
            break
    kinds = schema.get("type")
    if isinstance(kinds, list):
        others = [one for one in kinds if one != "null"]
        nullable = nullable or len(others) < len(kinds)
        schema = {**schema, "type": others[0] if len(others) == 1 else kinds}
    return schema, nullable


def _referred(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference within the schema leads to; nothing for any other."""
    here: Any = root
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return {}
    for part in reference[2:].split("/"):
        here = here.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(here, Mapping) else None
    return here if isinstance(here, Mapping) else {}


def _values(schema: Mapping[str, Any]) -> list[tuple[Any, str]] | None:
    """The values that a schema lists, with their labels; ``None`` when it lists none."""
    if "const" in schema:
        return [(schema["const"], _said(schema["const"]))]
    listed = schema.get("enum")
    if isinstance(listed, list) and 0 < len(listed) <= CHOICES:
        return [(value, _said(value)) for value in listed]
    branches = schema.get("oneOf") or schema.get("anyOf")
    if not isinstance(branches, list) or not 0 < len(branches) <= CHOICES:
        return None
    if all(isinstance(one, Mapping) and "const" in one for one in branches):
        return [(one["const"], str(one.get("title") or _said(one["const"]))) for one in branches]
    return None


def _chosen(schema: Mapping[str, Any], values: Sequence[Any]) -> str:
    if len(values) == 1:
        return "0"
    default = schema.get("default", _ABSENT)
    same = (str(n) for n, value in enumerate(values) if type(value) is type(default) and value == default)
    return next(same, "")


def _initial(kind: Kind, schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    if default is None or kind is Kind.GROUP:
        return ""
    if kind is Kind.FLAG:
        return {True: "true", False: "false"}.get(default, "") if isinstance(default, bool) else ""
    if kind is Kind.JSON:
        return json.dumps(default).decode()
    return default if isinstance(default, str) else _said(default)


def _value(field: Field, typed: str) -> Any:
    """The value of one field, or ``_ABSENT``."""
    typed = typed.replace("\r\n", "\n")
    if field.kind in (Kind.TEXT, Kind.LINES):
        if typed or (field.required and not field.nullable):
            return typed
        return None if field.required else _ABSENT
    if not typed.strip():
        if field.required and not field.nullable:
            raise NotTyped("must be answered")
        return None if field.required else _ABSENT
    return _READERS[field.kind](field, typed.strip())


def _read_flag(_: Field, typed: str) -> bool:
    if typed not in ("true", "false"):
        raise NotTyped("must be yes or no")
    return typed == "true"


def _read_choice(field: Field, typed: str) -> Any:
    if not (typed.isascii() and typed.isdigit() and len(typed) < 4 and int(typed) < len(field.values)):
        raise NotTyped("must be one of the choices")
    return field.values[int(typed)]


def _read_integer(_: Field, typed: str) -> int:
    if not _INTEGER.fullmatch(typed):
        raise NotTyped("must be a whole number, in digits only")
    return int(typed)


def _read_number(field: Field, typed: str) -> float:
    if _INTEGER.fullmatch(typed):
        return _read_integer(field, typed)
    number = float(typed) if _NUMBER.fullmatch(typed) else math.inf
    if math.isinf(number):
        raise NotTyped("must be a number, in digits and with a point for decimals")
    return number


def _read_json(_: Field, typed: str) -> Any:
    try:
        return json.loads(typed)
    except ValueError as error:
        raise NotTyped(f"is not JSON: {error}") from error


def _read_anything(_: Field, typed: str) -> Any:
    try:
        return json.loads(typed)
    except ValueError:
        return typed


_READERS: Final = {
    Kind.DECISION: _read_flag,
    Kind.FLAG: _read_flag,
    Kind.CHOICE: _read_choice,
    Kind.INTEGER: _read_integer,
    Kind.NUMBER: _read_number,
    Kind.JSON: _read_json,
    Kind.ANYTHING: _read_anything,
}


def _all(field: Field) -> Iterator[Field]:
    yield field
    for one in field.fields:
        yield from _all(one)


def _any_typed(group: Field, typed: Mapping[str, str]) -> bool:
    return any(typed.get(one.name, "").strip() for one in _all(group))


def _is_child(field: Field, parent: str, shown: str) -> bool:
    return bool(field.pointer) and field.pointer.rpartition("/")[0] == parent and repr(field.key) == shown


def _said(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value).decode()


def _label(key: str) -> str:
    words = " ".join(part for part in _WORDS.split(key) if part)
    return words[:1].upper() + words[1:] if words else "Your answer"


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
