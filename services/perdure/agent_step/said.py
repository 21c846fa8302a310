"""What nodes say while they run, as JSON: messages, custom data, events of LangChain.

Contract: :func:`encode` never fails, whatever a node said. Objects are written as the Agent Server writes them (a message as its
``model_dump()``); what JSON cannot say is written as its ``repr``. Keys that LangGraph and Perdure keep in a configuration for
themselves are left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from langgraph.types import Send
from pydantic_core import to_json

from perdure.chassis.telemetry import logger
from perdure.checkpoint import RunScope
from perdure.sdk.context import SdkContext

log = logger(__name__)

OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS
INTERNAL: Final = ("__perdure", "__pregel")
"""How keys of ``configurable`` begin that are no node's business."""
_INTERNAL_KEY: Final = re.compile(rb'"(?:%b)[^"]*":' % "|".join(INTERNAL).encode())
"""Such a key in JSON. LangGraph has values that begin so in the metadata of every event, which stay."""
_CACHED: Final = 64
"""Metadata of which the JSON is kept, at most."""


def encode(value: Any) -> bytes:
    """The JSON of a value that a node said."""
    try:
        encoded = orjson.dumps(value, _plain, OPTIONS)
    except (TypeError, ValueError, RecursionError):
        encoded = _encode_all_the_same(value)
    if _INTERNAL_KEY.search(encoded):
        encoded = orjson.dumps(_without_internal(orjson.loads(encoded)))
    return encoded


class MessageEncoder:
    """Encodes ``[message, metadata]``; all the chunks of one model call have one metadata, whose JSON is kept."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, bytes]] = {}

    def encode(self, message: Any, metadata: Any) -> bytes:
        """The JSON of both."""
        return b"[%b,%b]" % (encode(message), self._metadata(metadata))

    def _metadata(self, metadata: Any) -> bytes:
        known = self._known.get(id(metadata))
        if known is not None:
            return known[1]
        if len(self._known) >= _CACHED:
            self._known.clear()
        encoded = encode(metadata)
        self._known[id(metadata)] = metadata, encoded  # kept together, so that no other object gets the id
        return encoded


_CONVERTERS: Final[tuple[tuple[tuple[type, ...], Callable[[Any], Any]], ...]] = (
    ((RunScope, SdkContext), lambda _: None),
    ((Send,), lambda send: {"node": send.node, "args": send.arg}),
    ((BaseException,), lambda error: {"error": type(error).__name__, "message": str(error)}),
    ((set, frozenset), lambda items: sorted(items, key=repr)),
    ((bytes, bytearray, memoryview), lambda data: f"<{len(data)} bytes>"),
    ((type,), repr),
)
"""The first that fits converts an object, before its own methods are asked."""


def _plain(value: Any) -> Any:
    """What JSON can say in place of an object."""
    for types, convert in _CONVERTERS:
        if isinstance(value, types):
            return convert(value)
    for method in ("model_dump", "_asdict"):
        if callable(dump := getattr(value, method, None)):
            return dump()
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return repr(value)


def _encode_all_the_same(value: Any) -> bytes:
    """The JSON of what orjson refuses: lone surrogates, large integers, an object that refers to itself or fails."""
    try:
        return to_json(_sayable(value), inf_nan_mode="null", fallback=repr)
    except Exception as error:
        log.warning("stream.not_json", type=type(value).__name__, error=str(error))
        return orjson.dumps(f"<{type(value).__name__}: not JSON>")


def _sayable(value: Any, depth: int = 0) -> Any:
    """The value in JSON's terms, with ``?`` for every lone surrogate."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= 100:
        return f"<{type(value).__name__}: too deep>"
    if isinstance(value, Mapping):
        return {str(_sayable(key, depth + 1)): _sayable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(item, depth + 1) for item in value]
    return _sayable(_plain(value), depth + 1)


def _without_internal(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_internal(item) for name, item in value.items() if not name.startswith(INTERNAL)}
    if isinstance(value, list):
        return [_without_internal(item) for item in value]
    return value
