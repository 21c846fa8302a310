"""Reading requests: bodies as JSON into their models, query parameters, headers. Everything wrong is named at once.

Contract: raises :class:`perdure.gateway.http.problems.RequestProblem` and nothing else for a request that is not valid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import orjson
from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from perdure.gateway.http.bodies import BODIES, received
from perdure.gateway.http.cursors import Cursor, read_cursor
from perdure.gateway.http.problems import RequestProblem, invalid, invalid_fields
from perdure.gateway.http.thread_ids import own_thread_id
from perdure.gateway.http.values import PAYLOAD_LIMIT, metadata_problem, payload_problem
from perdure.schemas.problem import InvalidField

M = TypeVar("M", bound=BaseModel)

FORM: Final = "application/x-www-form-urlencoded"
FORM_FIELDS: Final = 5_000
GIVEN: Final[web.RequestKey[tuple[Any]]] = web.RequestKey("given", tuple)
"""The body of a request that was read already, for who reads it next."""
IDEMPOTENCY_KEY = "Idempotency-Key"
IDEMPOTENCY_KEY_LIMIT = 255
_JSON_TYPES = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}
TRUE, FALSE = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no", ""})


async def read_body(request: web.Request, model: type[M]) -> tuple[M, Any]:
    """The body as its model, and as parsed; an empty body is ``{}``.

    Raises:
        RequestProblem: ``body-too-large``, ``unsupported-media-type``, ``malformed-json`` or ``invalid-request``.

    """
    raw = await read_json(request)
    if not isinstance(raw, dict):
        raise invalid("", f"the body must be a JSON object, not {_JSON_TYPES.get(type(raw), 'this')}")
    try:
        return _with_stored_ids(request, model.model_validate(raw)), raw
    except ValidationError as error:
        raise invalid_fields([_field(raw, one) for one in error.errors(include_url=False)]) from None


async def read_bodies(request: web.Request, model: type[M], limit: int) -> list[tuple[M, Any]]:
    """A body that is a list, each entry as its model and as parsed; 1 to ``limit`` entries.

    Raises:
        RequestProblem: ``body-too-large``, ``unsupported-media-type``, ``malformed-json`` or ``invalid-request``.

    """
    raw = await read_json(request)
    if not isinstance(raw, list):
        raise invalid("", f"the body must be a JSON array, not {_JSON_TYPES.get(type(raw), 'an object')}")
    if not 1 <= len(raw) <= limit:
        raise invalid("", f"the body must have 1 to {limit} entries, not {len(raw)}")
    try:
        return [*zip(TypeAdapter(list[model]).validate_python(raw), raw, strict=True)]  # type: ignore[valid-type]
    except ValidationError as error:
        raise invalid_fields([_field(raw, one) for one in error.errors(include_url=False)]) from None


async def read_json(request: web.Request) -> Any:
    """The body as parsed JSON; an empty body is ``{}``."""
    given: tuple[Any] | None = request.pop(GIVEN, None)
    return await request.app[BODIES].json(request) if given is None else given[0]


def replace_json(request: web.Request, body: Any) -> None:
    """Give the next :func:`read_json` this body in place of the client's, which was read."""
    request[GIVEN] = (body,)


async def read_bytes(request: web.Request, limit: int) -> bytes:
    """The body, at most ``limit`` bytes of it.

    Raises:
        RequestProblem: ``body-too-large``, before the rest is read; ``body-too-slow``.

    """
    if request.content_length is not None and request.content_length > limit:
        raise over_limit(limit, request.content_length)
    return await received(request, limit, over_limit)


async def read_form(request: web.Request, limit: int) -> dict[str, str]:
    """The fields of a posted HTML form; of a field that is there twice the last.

    Raises:
        RequestProblem: ``body-too-large``, ``unsupported-media-type`` or ``bad-request``.

    """
    body = await read_bytes(request, limit)
    if request.content_type != FORM:
        raise RequestProblem("unsupported-media-type", f"The body has the type {request.content_type!r}, not {FORM}.")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FORM_FIELDS, errors="strict")
    except ValueError as error:
        raise RequestProblem("bad-request", f"The form cannot be read: {error}.") from error
    return dict(pairs)


def over_limit(limit: int, size: int | None) -> RequestProblem:
    """A body over a limit of its own, both in bytes."""
    sent = f" of {size} bytes" if size is not None else ""
    return RequestProblem("body-too-large", f"The body{sent} is larger than the limit of {limit} bytes.")


def require_metadata(metadata: dict[str, Any] | None) -> None:
    """Refuse metadata that cannot be stored."""
    if metadata and (problem := metadata_problem(metadata)):
        raise invalid("/metadata", problem)


def require_payload(pointer: str, payload: Any) -> None:
    """Refuse a signal's payload or an answer that cannot be stored.

    Raises:
        RequestProblem: ``body-too-large`` or ``invalid-request``.

    """
    size = len(orjson.dumps(payload))
    if size > PAYLOAD_LIMIT:
        raise RequestProblem(
            "body-too-large",
            f"{pointer} has {size} bytes as JSON; the limit is {PAYLOAD_LIMIT}. Store large values elsewhere and pass a "
            "reference.",
            (InvalidField(pointer=pointer, detail=f"larger than {PAYLOAD_LIMIT} bytes as JSON"),),
        )
    if problem := payload_problem(payload):
        raise invalid(pointer, problem)


def idempotency_key(request: web.Request) -> str | None:
    """The ``Idempotency-Key`` header, or ``None``."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    if not key or len(key) > IDEMPOTENCY_KEY_LIMIT or not key.isprintable():
        detail = f"must have 1 to {IDEMPOTENCY_KEY_LIMIT} printable characters"
        raise invalid(f"header:{IDEMPOTENCY_KEY}", detail)
    return key


def request_digest(path: str, body: Any) -> str:
    """Digest of what a request asks for: the path and the body, whatever the order of its keys (32 hex digits)."""
    canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(path.encode() + b"\0" + canonical, digest_size=16).hexdigest()


def query_int(request: web.Request, name: str, default: int, *, low: int, high: int) -> int:
    """A query parameter in ``low .. high``."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise invalid(f"query:{name}", f"{text!r} is not a whole number from {low} to {high}")
    return value


def query_float(request: web.Request, name: str, default: float, *, high: float) -> float:
    """A query parameter in ``0 .. high``."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= high:
        raise invalid(f"query:{name}", f"{text!r} is not a number from 0 to {high:g}")
    return value


def query_bool(request: web.Request, name: str) -> bool:
    """A query parameter that is true or false (the default)."""
    text = request.query.get(name, "").lower()
    if text not in TRUE | FALSE:
        raise invalid(f"query:{name}", f"{text!r} is neither true nor false")
    return text in TRUE


def query_cursor(request: web.Request, name: str) -> Cursor | None:
    """A query parameter that continues a list, or absent."""
    text = request.query.get(name)
    if text is None:
        return None
    cursor = read_cursor(text)
    if cursor is None:
        raise invalid(f"query:{name}", "is no cursor of an earlier page")
    return cursor


def query_choice(request: web.Request, name: str, choices: Sequence[str]) -> str | None:
    """A query parameter that is one of ``choices``, or absent."""
    text = request.query.get(name)
    if text is not None and text not in choices:
        raise invalid(f"query:{name}", f"{text!r} is not one of {', '.join(choices)}")
    return text


def _with_stored_ids(request: web.Request, wanted: M) -> M:
    """A body's model with the stored ids of the threads that it names."""
    stored: dict[str, Any] = {}
    if (named := getattr(wanted, "thread_id", None)) is not None:
        stored["thread_id"] = own_thread_id(request, named)
    if (several := getattr(wanted, "thread_ids", None)) is not None:
        stored["thread_ids"] = [own_thread_id(request, one) for one in several]
    return wanted.model_copy(update=stored) if stored else wanted


def _field(raw: Any, error: Any) -> InvalidField:
    """One validation error as pointer and sentence."""
    message = str(error["msg"])
    given = error.get("input")
    if error["type"] != "missing" and isinstance(given, str | int | float | bool) and len(repr(given)) <= 80:
        message = f"{message} (got {given!r})"
    return InvalidField(pointer=_pointer(raw, error["loc"], missing=error["type"] == "missing"), detail=message)


def _pointer(raw: Any, location: Sequence[int | str], *, missing: bool) -> str:
    """A JSON Pointer; parts that name a branch of a union and not a place in the body are left out."""
    pointer, here = "", raw
    for number, part in enumerate(location):
        if not _is_in(here, part) and not (missing and number == len(location) - 1):
            continue
        here = here[part] if _is_in(here, part) else None
        pointer += "/" + str(part).replace("~", "~0").replace("/", "~1")
    return pointer


def _is_in(here: Any, part: int | str) -> bool:
    if isinstance(here, list):
        return isinstance(part, int) and part < len(here)
    return isinstance(here, dict) and part in here
