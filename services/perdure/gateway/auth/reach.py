"""How far a request reaches within its tenant: the conditions of the project's ``auth`` handlers, and what they put on new things.

Contract: a condition is about the protected field ``auth`` of a document, which only handlers write. A document without the field
meets no condition. :meth:`Reach.covers` and :meth:`Reach.clauses` say the same, of a document and as MongoDB queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from aiohttp import web

Document = dict[str, Any]
Scalar = str | int | float | bool | None


class Condition(NamedTuple):
    """One condition: the field is the value, or is a list that holds it."""

    field: str
    operator: Literal["$eq", "$contains"]
    value: Scalar


class BadFilter(ValueError):
    """A handler's filter is not understood; the message is for the log."""


def conditions_of(given: Mapping[str, Any]) -> tuple[Condition, ...]:
    """The conditions of a filter as handlers return it: ``{"owner": "ann"}``, ``{"team": {"$contains": "ann"}}``.

    Raises:
        BadFilter: it has another operator, or a value that cannot be compared.

    """
    return tuple(condition for field, wanted in given.items() for condition in _conditions(field, wanted))


def _conditions(field: str, wanted: Any) -> Iterable[Condition]:
    if not is_field(field):
        raise BadFilter(f"{field!r} is no name of a field")
    if not isinstance(wanted, Mapping):
        wanted = {"$eq": wanted}
    if not wanted:
        raise BadFilter(f"the condition on {field!r} is empty")
    for operator, value in wanted.items():
        if operator == "$eq":
            yield Condition(field, "$eq", _scalar(field, value))
        elif operator == "$contains":
            values = value if isinstance(value, list) else [value]
            if not values:
                raise BadFilter(f"$contains of {field!r} names nothing")
            for one in values:
                yield Condition(field, "$contains", _scalar(field, one))
        else:
            raise BadFilter(f"{operator!r} of {field!r} is not served; $eq and $contains are")


def _scalar(field: str, value: Any) -> Scalar:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise BadFilter(f"{field!r} is compared with a {type(value).__name__}")


def is_field(name: str) -> bool:
    """Whether metadata of this name can be stored in the protected field and searched by."""
    return bool(name) and not name.startswith("$") and "." not in name and "\0" not in name


@dataclass(frozen=True, slots=True)
class Reach:
    """What of a tenant's data a request may touch.

    Attributes:
        conditions: All must hold for what is read or changed.
        stamps: The protected field of what is made: of each body of the request.

    """

    conditions: tuple[Condition, ...] = ()
    stamps: tuple[Document, ...] = ()

    @property
    def limited(self) -> bool:
        """Whether there are conditions."""
        return bool(self.conditions)

    def covers(self, document: Mapping[str, Any] | None) -> bool:
        """Whether a document meets the conditions; what is not there meets none."""
        if not self.conditions:
            return True
        auth = (document or {}).get("auth") or {}
        return all(meets(auth, condition) for condition in self.conditions)

    def clauses(self) -> list[Document]:
        """The conditions on documents, as MongoDB queries that must all hold."""
        return [_clause(condition) for condition in self.conditions]

    def stamp(self, number: int = 0) -> Document:
        """The protected field of what the body with this number makes; empty: none."""
        return dict(self.stamps[number]) if number < len(self.stamps) else {}


UNLIMITED: Final = Reach()
REACH: Final = web.RequestKey("reach", Reach)
"""Set on requests of callers that the project's handlers name; others reach their whole tenant."""


def reach_of(request: web.Request) -> Reach:
    """How far a request reaches."""
    reach: Reach = request.get(REACH, UNLIMITED)
    return reach


def stamped(request: web.Request, number: int = 0) -> dict[str, Any]:
    """The protected field of a new document, as its fields; none where no handler put anything."""
    stamp = reach_of(request).stamp(number)
    return {"auth": stamp} if stamp else {}


def stamp_of(conditions: Iterable[Condition], written: Mapping[str, Any], metadata: Mapping[str, Any]) -> Document:
    """The protected field of a new thing: what the handler put into its metadata, and what its own filter asks for.

    A new thing must meet the filter of the handler that permits it: a field that must be a value is set to the value; a field that
    must hold a value is taken from the metadata if it does.

    Raises:
        BadFilter: a name cannot be stored.

    """
    stamp: Document = dict(written)
    for field, operator, value in conditions:
        if operator == "$eq":
            stamp[field] = value
        elif field in metadata and meets(metadata, Condition(field, operator, value)):
            stamp[field] = metadata[field]
    if wrong := [name for name in stamp if not is_field(name)]:
        raise BadFilter(f"{wrong[0]!r} is no name of a field")
    return stamp


def meets(auth: Mapping[str, Any], condition: Condition) -> bool:
    """Whether fields meet a condition."""
    field, operator, value = condition
    if field not in auth:
        return False
    if operator == "$eq":
        return _same(auth[field], value)
    return isinstance(auth[field], list) and any(_same(one, value) for one in auth[field])


def _same(one: Any, other: Scalar) -> bool:
    return (
        isinstance(one, bool) is isinstance(other, bool)
        and type(one) in (str, int, float, bool, type(None))
        and one == other
    )


def _clause(condition: Condition) -> Document:
    field, operator, value = condition
    path = f"auth.{field}"
    if operator == "$contains":
        return {path: {"$elemMatch": {"$eq": value}}}
    if value is None:
        return {path: {"$type": "null"}}
    return {path: {"$eq": value, "$not": {"$type": "array"}}}
