"""JSON Schema 2020-12 with costs that are bounded: the keywords by which answers, and schemas themselves, are judged.

Contract: one judgement takes at most ``STEPS`` keywords, whatever the schema says; ``pattern`` and ``patternProperties`` are
searched by RE2, which takes time linear in the text and knows no lookahead and no backreference; ``uniqueItems`` takes linear time.
Everything else is jsonschema's own.

Outside: what is judged and how it is said (:mod:`perdure.registry.answers`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

import re2  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

STEPS: Final = 50_000
"""Keywords of one judgement. A form with a hundred fields takes a few hundred."""
PATTERN_BYTES: Final = 1 << 20
"""Memory of one compiled pattern; ``x{1000}{1000}`` needs more."""
NESTING: Final = 200
"""Levels of a value whose items are compared."""

Errors = Iterator[ValidationError]
Keyword = Callable[[Any, Any, Any, Mapping[str, Any]], Errors]


class TooCostly(ValueError):
    """A judgement takes more than is allowed to it."""


class _Budget:
    def __init__(self, steps: int) -> None:
        self.steps = self.left = steps


_budget: ContextVar[_Budget] = ContextVar("perdure_judging")


@contextlib.contextmanager
def judging(steps: int = STEPS) -> Iterator[None]:
    """Bound the steps of the judgements within; a judgement outside of this is refused."""
    token = _budget.set(_Budget(steps))
    try:
        yield
    finally:
        _budget.reset(token)


@functools.lru_cache(maxsize=512)
def compiled(pattern: str) -> Any:
    """A pattern as RE2 reads it.

    Raises:
        TooCostly: RE2 does not take it; says so.

    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = PATTERN_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise TooCostly(
            f"the pattern {pattern[:100]!r} cannot be searched in linear time ({said}): write it without lookahead, lookbehind "
            "and backreferences"
        ) from error


def _counted(keyword: Keyword) -> Keyword:
    @functools.wraps(keyword)
    def counted(validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]) -> Errors:
        budget = _budget.get()
        budget.left -= 1
        if budget.left < 0:
            raise TooCostly(f"it takes more than {budget.steps} steps to judge: make the schema or the answer smaller")
        return keyword(validator, value, instance, schema) or iter(())

    return counted


def _pattern(validator: Any, pattern: str, instance: Any, _: Mapping[str, Any]) -> Errors:
    if validator.is_type(instance, "string") and not _found(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, _: Mapping[str, Any]) -> Errors:
    if not validator.is_type(instance, "object"):
        return
    for pattern, schema in patterns.items():
        for name, value in instance.items():
            if _found(pattern, name):
                yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Mapping[str, Any]) -> Errors:
    if not validator.is_type(instance, "object"):
        return
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    extras = [one for one in instance if one not in named and not any(_found(pattern, one) for pattern in patterns)]
    if validator.is_type(allowed, "object"):
        for extra in extras:
            yield from validator.descend(instance[extra], allowed, path=extra)
    elif not allowed and extras:
        shown = ", ".join(map(repr, sorted(extras)))
        verb = "was" if len(extras) == 1 else "were"
        yield ValidationError(f"Additional properties are not allowed ({shown} {verb} unexpected)")


def _unique_items(validator: Any, unique: Any, instance: Any, _: Mapping[str, Any]) -> Errors:
    if not unique or not validator.is_type(instance, "array"):
        return
    seen = set()
    for item in instance:
        key = _comparable(item)
        if key in seen:
            yield ValidationError(f"{instance!r:.200} has non-unique elements")
            return
        seen.add(key)


def _comparable(value: Any, depth: int = 0) -> Any:
    """A hashable value; two are equal exactly if the JSON values are: 1 equals 1.0, neither equals ``true``."""
    if depth > NESTING:
        raise TooCostly(f"its items are nested deeper than {NESTING} levels")
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return ("object", frozenset((name, _comparable(inner, depth + 1)) for name, inner in value.items()))
    if isinstance(value, list):
        return ("array", tuple(_comparable(inner, depth + 1) for inner in value))
    return value


def _found(pattern: str, text: str) -> bool:
    return compiled(pattern).search(text) is not None


_OURS: Final[Mapping[str, Keyword]] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}
Judge: Final[Any] = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {name: _counted(one) for name, one in {**Draft202012Validator.VALIDATORS, **_OURS}.items()},
)
"""A validator class of jsonschema, to be used within :func:`judging`. Of ``unevaluatedProperties`` beside ``patternProperties`` it
knows no bound: the library searches those with Python's engine."""


def _evolve(self: Any, **changes: Any) -> Any:
    """The same judge for another schema; the library's own would take another class where a schema names its dialect."""
    kept = {"schema": self.schema, "registry": self._registry, "_resolver": self._resolver}
    return Judge(**(kept | changes))


Judge.evolve = _evolve
