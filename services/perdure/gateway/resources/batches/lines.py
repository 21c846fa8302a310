"""Items out of an upload: bytes to lines, lines to documents, and what is wrong with each. Pure.

Contract: nothing is kept but the line that is not complete yet, at most ``LINE_LIMIT`` bytes of it. An empty line is no item. Lines
are counted from 1 as an editor does, items from 1 without the empty ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from pydantic import ValidationError

from perdure.chassis.payload import pack
from perdure.gateway.http.budget import too_many_values
from perdure.gateway.http.depth import JSON_DEPTH, too_deep
from perdure.gateway.http.values import METADATA_LIMIT, metadata_problem
from perdure.schemas.batch_documents import ItemDocument, ItemStatus, item_key
from perdure.schemas.batch_http import LINE_LIMIT, BatchItemCreate
from perdure.schemas.problem import InvalidField

BOM: Final = b"\xef\xbb\xbf"
_TOKEN: Final = re.compile(rb"\n(?:[ \t\r\v\f]*+\n)*+|[^\n]++")
"""The end of a line with the empty lines after it, or what stands in a line."""
PAYLOAD_FIELDS: Final = ("input", "config", "context")
LINE_VALUES: Final = 100_000
"""Values and keys of one item."""
ITEM_METADATA: Final = METADATA_LIMIT - 4_096
"""Bytes of an item's metadata; the rest of a run's is its batch's id and the item's name and number."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not empty; ``data`` is ``None`` when it was too long."""

    number: int
    data: bytes | None


class Lines:
    """Cuts a stream of bytes into lines, in time linear in its length however it is cut into pieces."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0
        self._complete = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[Line]:
        """The lines that are complete with these bytes."""
        found: list[Line] = []
        for token in _TOKEN.finditer(data):
            text = token.group()
            if text.startswith(b"\n"):
                found += self._line()
                self._complete += text.count(b"\n")
            else:
                self._hold(text)
        return found

    def end(self) -> list[Line]:
        """The last line, if there is one without its end."""
        return self._line()

    def _hold(self, text: bytes) -> None:
        self._held += len(text)
        if self._held > self._limit + len(BOM):
            self._parts, self._skipping = [], True
        elif not self._skipping:
            self._parts.append(text)

    def _line(self) -> list[Line]:
        number, data, skipped = self._complete + 1, b"".join(self._parts), self._skipping
        self._parts, self._held, self._skipping = [], 0, False
        if number == 1:
            data = data.removeprefix(BOM)
        if skipped or len(data) > self._limit:
            return [Line(number, None)]
        return [Line(number, data)] if data.strip() else []


@dataclass(slots=True)
class Parsed:
    """What became of some lines."""

    items: list[ItemDocument] = field(default_factory=list)
    wrong: list[InvalidField] = field(default_factory=list)
    """What is wrong, one entry a line."""
    nbytes: int = 0
    """Of the items' payloads."""


def parse_lines(lines: Iterable[Line], batch_id: str, first: int) -> Parsed:
    """Lines as items, numbered from ``first`` on."""
    return _parsed(_values(lines), batch_id, first)


def parse_items(values: Sequence[Any], batch_id: str) -> Parsed:
    """The ``items`` of a JSON body."""
    named = ((f"/items/{number}", orjson.dumps(value), value) for number, value in enumerate(values))
    return _parsed(
        ((where, value if len(data) <= LINE_LIMIT else _Broken(_too_long()), "/") for where, data, value in named),
        batch_id,
        1,
    )


@dataclass(frozen=True, slots=True)
class _Broken:
    """In place of a value: why there is none."""

    detail: str


def _values(lines: Iterable[Line]) -> Iterator[tuple[str, Any, str]]:
    """Where, the value, and how a place within it is joined to that."""
    for line in lines:
        yield f"line:{line.number}", _value(line.data), "/"


def _value(data: bytes | None) -> Any:
    if data is None:
        return _Broken(_too_long())
    if too_many_values(data, LINE_VALUES):
        return _Broken(f"holds more than {LINE_VALUES} values and keys")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return _Broken(f"is not JSON: {error.msg} (character {error.pos})")
    return _Broken(f"is nested deeper than {JSON_DEPTH} levels") if too_deep(data, value) else value


def _parsed(values: Iterable[tuple[str, Any, str]], batch_id: str, first: int) -> Parsed:
    result = Parsed()
    for where, value, joint in values:
        found = item_of(value, batch_id, first + len(result.items))
        if isinstance(found, InvalidField):
            place = f"{where}{joint}{found.pointer}" if found.pointer else where
            result.wrong.append(InvalidField(pointer=place, detail=found.detail))
        else:
            result.items.append(found)
            result.nbytes += len(found["payload"])
    return result


def item_of(value: Any, batch_id: str, number: int) -> ItemDocument | InvalidField:
    """One item as its document, or what is wrong with it (the first thing, at its place)."""
    item = _checked(value)
    if isinstance(item, InvalidField):
        return item
    packed = pack({name: value[name] for name in PAYLOAD_FIELDS if value.get(name) is not None})
    if packed.chunks:
        return InvalidField(pointer="", detail=_too_long())
    document: ItemDocument = {
        "_id": item_key(batch_id, number),
        "batch": batch_id,
        "number": number,
        "status": ItemStatus.WAITING.value,
        "payload": packed.inline,
        "attempt": 0,
    }
    if item.ref is not None:
        document["ref"] = item.ref
    if item.metadata:
        document["metadata"] = item.metadata
    return document


def _checked(value: Any) -> BatchItemCreate | InvalidField:
    if isinstance(value, _Broken):
        return InvalidField(pointer="", detail=value.detail)
    if not isinstance(value, dict):
        return InvalidField(pointer="", detail='must be a JSON object such as {"input": {...}}')
    try:
        item = BatchItemCreate.model_validate(value)
    except ValidationError as error:
        return _first(error)
    if item.input is None:
        return InvalidField(pointer="input", detail="must not be null: a graph starts with something")
    if item.metadata and (problem := _metadata_problem(item.metadata)):
        return InvalidField(pointer="metadata", detail=problem)
    return item


def _metadata_problem(metadata: dict[str, Any]) -> str | None:
    if len(orjson.dumps(metadata)) > ITEM_METADATA:
        return f"larger than {ITEM_METADATA} bytes as JSON; put large values into the input"
    return metadata_problem(metadata)


def _first(error: ValidationError) -> InvalidField:
    found = error.errors(include_url=False)[0]
    message = str(found["msg"])
    if found["type"] == "extra_forbidden":
        message = f"is not known; an item has {', '.join(BatchItemCreate.model_fields)}"
    elif found["type"] == "missing":
        message = "is missing"
    return InvalidField(pointer="/".join(map(str, found["loc"])), detail=message)


def _too_long() -> str:
    return f"longer than {LINE_LIMIT} bytes; store large values elsewhere and pass a reference"
