"""Reading stored values as plain data, without importing what they were made of.

Contract: for services that never import user code. An object in a stored value (a message, a dataclass, an enum, ...) comes back as
the data that it was stored with: a pydantic model and a LangChain message as its ``model_dump()``, a dataclass as its fields,
a set as a list, a UUID, date or path as text. Nothing is imported by a name found in the data.

Outside: writing. A value read here must not be stored again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta, timezone
from typing import Any, Final
from uuid import UUID

import ormsgpack
from langgraph.checkpoint.serde.jsonplus import (
    EXT_CONSTRUCTOR_POS_ARGS,
    EXT_CONSTRUCTOR_SINGLE_ARG,
    EXT_DELTA_SNAPSHOT,
    EXT_NUMPY_ARRAY,
    JsonPlusSerializer,
)

from perdure.checkpoint.shown import visible

ROOT: Final = "__root__"
"""The channel of a graph whose state is not a dictionary."""
BRANCH: Final = "branch:to:"
JOIN: Final = "join:"
HIDDEN_PREFIXES: Final = ("__", BRANCH, JOIN, "start:")
"""Of the names of LangGraph's own channels."""


def plain_serializer() -> JsonPlusSerializer:
    """A serializer whose ``loads_typed`` gives plain data only."""
    return JsonPlusSerializer(__unpack_ext_hook__=_unpack_ext)


def visible_values(channels: Mapping[str, Any]) -> Any:
    """The state that a user of the graph knows: without LangGraph's own channels."""
    if ROOT in channels:
        return visible(channels[ROOT])
    return {name: visible(value) for name, value in channels.items() if not name.startswith(HIDDEN_PREFIXES)}


def _unpack(data: bytes) -> Any:
    return ormsgpack.unpackb(data, ext_hook=_unpack_ext, option=ormsgpack.OPT_NON_STR_KEYS)


def _unpack_ext(code: int, data: bytes) -> Any:
    content = _unpack(data)
    if code == EXT_DELTA_SNAPSHOT:
        return content
    if code == EXT_NUMPY_ARRAY:
        dtype, shape = content[0], content[1]
        return {"dtype": dtype, "shape": list(shape), "bytes": len(content[3])}
    module, name, payload = content[0], content[1], content[2]
    if code == EXT_CONSTRUCTOR_SINGLE_ARG:
        return str(UUID(payload)) if (module, name) == ("uuid", "UUID") else payload
    if code == EXT_CONSTRUCTOR_POS_ARGS:
        return _positional(module, name, payload)
    return payload


def _positional(module: str, name: str, args: Any) -> Any:
    """What was made by calling a class with these arguments, as text or number where that is what people expect."""
    if module.startswith("pathlib"):
        return "/".join(args).replace("//", "/", 1)
    if module == "datetime" and name in _DATE_PARTS:
        return _DATE_PARTS[name](args)
    if (module, name) == ("langgraph.types", "Send"):
        return {"node": args[0], "arg": args[1]}
    return args[0] if module == "re" else args


_DATE_PARTS: Final[dict[str, Callable[[Any], Any]]] = {
    "date": lambda args: date(*args).isoformat(),
    "timedelta": lambda args: timedelta(*args).total_seconds(),
    "timezone": lambda args: str(timezone(timedelta(seconds=args[0]))) if args else "UTC",
}
