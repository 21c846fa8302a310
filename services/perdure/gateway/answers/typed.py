"""The answer made from what was typed into a form: pure functions.

Contract: :func:`read` turns every field that was filled in into exactly the JSON that its label shows, or says why it cannot.
Fields of alternatives that were not chosen are passed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from perdure.chassis import json
from perdure.gateway.answers.forms import Field, Kind, fields_in

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,400}")
_NUMBER: Final = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,4})?")
_REQUIRED: Final = re.compile(r"(.*) is a required property", re.DOTALL)


class NotTyped(ValueError):
    """What was typed is not a value of the field's kind."""


class _Absent:
    """The value of a field that was left out."""


_ABSENT: Final = _Absent()


def inputs_of(form: Field, typed: Mapping[str, str] | None = None) -> Iterator[Field]:
    """The fields that are typed or chosen, in their order: neither groups nor the buttons.

    Args:
        form: The form.
        typed: With it, only the fields of the alternatives that it chooses.

    """
    if form.kind not in (Kind.GROUP, Kind.LIST, Kind.DECISION):
        yield form
    inner = form.fields
    if form.kind is Kind.ALTERNATIVES and typed is not None:
        inner = tuple(one for n, one in enumerate(inner) if str(n) == typed.get(form.name, ""))
    for one in inner:
        yield from inputs_of(one, typed)


def read(form: Field, typed: Mapping[str, str]) -> tuple[Any, dict[str, list[str]]]:
    """The answer that was typed, and by pointer what could not be read; there is no answer when there is a reason."""
    wrong: dict[str, list[str]] = {}

    def value_of(field: Field) -> Any:
        if field.kind is Kind.GROUP:
            if not field.required and not _any_typed(field, typed):
                return _ABSENT
            values = {one.key: value_of(one) for one in field.fields}
            return {**field.fixed, **{key: value for key, value in values.items() if value is not _ABSENT}}
        if field.kind is Kind.LIST:
            return [value_of(one) for one in field.fields]
        try:
            value = _value(field, typed.get(field.name, ""))
            return value_of(field.fields[value]) if field.kind is Kind.ALTERNATIVES and value is not _ABSENT else value
        except NotTyped as error:
            wrong[field.pointer] = [str(error)]
            return _ABSENT

    answer = value_of(form)
    return (None if wrong else answer), wrong


def place(form: Field, reasons: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Reasons by the pointer of the field beside which they are shown: the one they are about, or the nearest around it."""
    places = {one.pointer for one in fields_in(form)}
    found: dict[str, list[str]] = {}
    for pointer, reason in reasons:
        missing = _REQUIRED.fullmatch(reason)
        child = next((one for one in fields_in(form) if missing and _is_child(one, pointer, missing[1])), None)
        if child is not None:
            found.setdefault(child.pointer, []).append("must be answered")
            continue
        shown = pointer
        while shown not in places:
            shown = shown.rpartition("/")[0]
        where = f"at {pointer[len(shown) :]}: " if shown != pointer else ""
        found.setdefault(shown, []).append(where + reason)
    return found


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


def _read_alternative(field: Field, typed: str) -> int:
    """The number of the alternative that was chosen."""
    if typed not in {choice.value for choice in field.choices}:
        raise NotTyped("must be one of the choices")
    return int(typed)


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
    Kind.ALTERNATIVES: _read_alternative,
    Kind.INTEGER: _read_integer,
    Kind.NUMBER: _read_number,
    Kind.JSON: _read_json,
    Kind.ANYTHING: _read_anything,
}


def _any_typed(group: Field, typed: Mapping[str, str]) -> bool:
    return any(typed.get(one.name, "").strip() for one in fields_in(group))


def _is_child(field: Field, parent: str, shown: str) -> bool:
    return bool(field.pointer) and field.pointer.rpartition("/")[0] == parent and repr(field.key) == shown
