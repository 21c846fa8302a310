"""Rules: whether a fresh value still fits what was believed. Pure.

Contract: :func:`judge` never guesses. A fresh value of the wrong type breaks its rule, with a reason that names both types; a
boolean is no number. Tolerances are computed exactly, on the decimals that JSON writes: 1.1 is within 0.1 of 1.0.

Outside: where a value comes from; and NaN, infinity and depth, which :mod:`perdure.validator.domain` refuses before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from perdure.schemas.validation import Absolute, Equal, NewerThan, Premise, Range, Relative, Rule, UnchangedHash
from perdure.schemas.waits import digest

AHEAD_LIMIT: Final = timedelta(seconds=60)
"""A time further ahead of our clock is not new but wrong."""
SHOWN: Final = 80
"""Characters of a value in a reason."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule says of a fresh value."""

    holds: bool
    reason: str
    """One sentence."""


def judge(premise: Premise, fresh: Any, read_at: datetime) -> Judgement:
    """Whether the premise's rule holds for a fresh JSON value that was read at ``read_at``."""
    return _RULES[type(premise.rule)](premise.rule, premise.believed, fresh, read_at)


def drift(believed: Any, fresh: Any) -> float | None:
    """``fresh - believed`` where both are numbers and a float can say it."""
    if not (is_number(believed) and is_number(fresh)):
        return None
    try:
        return float(_exact(fresh) - _exact(believed))
    except OverflowError:
        return None


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 1 equals 1.0, and no boolean equals a number."""
    if is_number(one) and is_number(other):
        return bool(one == other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def is_number(value: Any) -> bool:
    """A JSON number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value in a sentence, cut."""
    text = repr(value) if not isinstance(value, dict | list) else f"{_kind(value)} of {len(value)}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _equal(_: Equal, believed: Any, fresh: Any, __: datetime) -> Judgement:
    if same(believed, fresh):
        return Judgement(True, f"still {shown(fresh)}")
    if _kind(believed) != _kind(fresh):
        return Judgement(False, f"believed {_said(believed)}, found {_said(fresh)}")
    return Judgement(False, f"believed {shown(believed)}, found {shown(fresh)}")


def _absolute(rule: Absolute, believed: Any, fresh: Any, __: datetime) -> Judgement:
    return _within(Fraction(str(rule.tolerance)), f"{rule.tolerance:g}", believed, fresh)


def _relative(rule: Relative, believed: Any, fresh: Any, __: datetime) -> Judgement:
    allowed = Fraction(str(rule.tolerance)) * abs(_exact(believed))
    return _within(allowed, f"{rule.tolerance * 100:g} %", believed, fresh)


def _within(allowed: Fraction, said: str, believed: Any, fresh: Any) -> Judgement:
    if not is_number(fresh):
        return Judgement(False, f"believed the number {shown(believed)}, found {_said(fresh)}")
    holds = abs(_exact(fresh) - _exact(believed)) <= allowed
    return Judgement(
        holds,
        f"believed {shown(believed)}, found {shown(fresh)}: {'within' if holds else 'more than'} {said}"
        + ("" if holds else " away"),
    )


def _range(rule: Range, _: Any, fresh: Any, __: datetime) -> Judgement:
    low = "" if rule.low is None else f"from {rule.low:g} "
    wanted = f"{low}{'' if rule.high is None else f'to {rule.high:g}'}".strip()
    if not is_number(fresh):
        return Judgement(False, f"must be a number {wanted}, found {_said(fresh)}")
    value = _exact(fresh)
    above = rule.low is None or value >= _exact(rule.low)
    below = rule.high is None or value <= _exact(rule.high)
    return Judgement(above and below, f"found {shown(fresh)}, must be {wanted}")


def _newer_than(rule: NewerThan, _: Any, fresh: Any, read_at: datetime) -> Judgement:
    moment = _time(fresh)
    if isinstance(moment, str):
        return Judgement(False, moment)
    if moment - read_at > AHEAD_LIMIT:
        ahead = (moment - read_at).total_seconds()
        return Judgement(False, f"{moment.isoformat()} is {ahead:.0f} s in the future: a clock or a unit is wrong")
    if rule.than is not None and moment < rule.than:
        return Judgement(False, f"{moment.isoformat()} is before {rule.than.isoformat()}")
    age_s = (read_at - moment).total_seconds()
    if rule.max_age_s is not None and age_s > rule.max_age_s:
        return Judgement(False, f"{moment.isoformat()} is {age_s:.1f} s old, at most {rule.max_age_s:g} s are allowed")
    return Judgement(True, f"{moment.isoformat()} is new enough")


def _unchanged(_: UnchangedHash, believed: Any, fresh: Any, __: datetime) -> Judgement:
    found = digest(fresh)
    if found == believed:
        return Judgement(True, f"unchanged ({found[:12]})")
    return Judgement(False, f"changed: believed the digest {str(believed)[:12]}, found {found[:12]}")


_RULES: Final[dict[type[Rule], Callable[[Any, Any, Any, datetime], Judgement]]] = {
    Equal: _equal,
    Absolute: _absolute,
    Relative: _relative,
    Range: _range,
    NewerThan: _newer_than,
    UnchangedHash: _unchanged,
}


def _exact(number: float) -> Fraction:
    """The number that JSON's text says, not the nearest binary one."""
    return Fraction(number) if isinstance(number, int) else Fraction(Decimal(repr(number)))


def _time(value: Any) -> datetime | str:
    """The moment that a value names, or why it names none."""
    try:
        if is_number(value):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return (
                moment if moment.tzinfo is not None else f"{shown(value)} has no time zone: it could be any of 24 hours"
            )
    except (ValueError, OverflowError, OSError):
        return f"{shown(value)} is no time (ISO 8601 with a zone, or Unix seconds)"
    return f"must be a time, found {_said(value)}"


def _kind(value: Any) -> str:
    kinds = ((bool, "boolean"), (int | float, "number"), (str, "text"), (dict, "object"), (list, "list"))
    return next((name for type_, name in kinds if isinstance(value, type_)), "null")


def _said(value: Any) -> str:
    return (
        "null"
        if value is None
        else shown(value)
        if isinstance(value, dict | list)
        else f"the {_kind(value)} {shown(value)}"
    )
