"""Dead letters: look at them, redrive them, drop them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
from aiohttp import web

from perdure.gateway.context import CONTEXT
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.requests import query_bool, query_choice, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.schemas.deadletter import LetterState
from perdure.schemas.deadletter_http import DeadLetter, Decision, RedriveMany

Document = dict[str, Any]

PAGE = 50
MAX_PAGE = 1000
FILTERS = ("topic", "reason", "type", "thread_id")
SHOWN = tuple(name for name in DeadLetter.model_fields if name != "id")


async def list_letters(request: web.Request) -> web.Response:
    """``GET /dead-letters``."""
    limit = query_int(request, "limit", PAGE, low=1, high=MAX_PAGE)
    fits = {name: request.query[name] for name in FILTERS if name in request.query}
    state = query_choice(request, "state", [state.value for state in LetterState])
    if state is not None:
        fits["state"] = state
    after = _read_cursor(request.query["cursor"]) if "cursor" in request.query else None
    found = await request.app[CONTEXT].dead_letters.page(tenant_of(request), fits, limit + 1, after)
    page = found[:limit]
    cursor = _cursor(page[-1]) if len(found) > limit else None
    return json_response({"items": [view(letter) for letter in page], "cursor": cursor})


async def get(request: web.Request) -> web.Response:
    """``GET /dead-letters/{letter_id}``."""
    return json_response(content(await _require(request)))


async def redrive(request: web.Request) -> web.Response:
    """``POST /dead-letters/{letter_id}/redrive``."""
    force = query_bool(request, "force")
    decision, _ = await read_body(request, Decision)
    id_ = request.match_info["letter_id"]
    done = await request.app[CONTEXT].dead_letters.redrive(tenant_of(request), [id_], decision.by, force=force)
    if id_ in done.refused:
        raise RequestProblem("redrive-refused", f"Dead letter {id_!r} cannot be redriven: {done.refused[id_]}.")
    letter = await _require(request)
    if id_ not in done.sent:
        raise _decided(letter, "POST .../redrive?force=true redrives it all the same.")
    return json_response(view(letter))


async def redrive_many(request: web.Request) -> web.Response:
    """``POST /dead-letters/redrive``: open letters that fit, the oldest first."""
    wanted, _ = await read_body(request, RedriveMany)
    letters, tenant = request.app[CONTEXT].dead_letters, tenant_of(request)
    fits = {name: str(value) for name in FILTERS if (value := getattr(wanted, name)) is not None}
    chunks = await letters.open_ids(tenant, fits, wanted.limit + 1)
    sent: list[str] = []
    refused: list[Document] = []
    left = wanted.limit
    for chunk in chunks:
        done = await letters.redrive(tenant, chunk[:left], wanted.by)
        left -= min(left, len(chunk))
        sent += done.sent
        refused += [{"id": id_, "detail": why} for id_, why in done.refused.items()]
    more = sum(map(len, chunks)) > wanted.limit
    return json_response({"redriven": sent, "refused": refused, "more": more})


async def drop(request: web.Request) -> web.Response:
    """``POST /dead-letters/{letter_id}/drop``."""
    decision, _ = await read_body(request, Decision)
    id_ = request.match_info["letter_id"]
    dropped = await request.app[CONTEXT].dead_letters.drop(tenant_of(request), id_, decision.by)
    letter = await _require(request)
    if not dropped:
        raise _decided(letter, "Only open letters can be dropped.")
    return json_response(view(letter))


def view(letter: Mapping[str, Any]) -> Document:
    """A letter as clients see it in lists."""
    return {"id": letter["_id"], **{name: letter.get(name) for name in SHOWN}}


def content(letter: Mapping[str, Any]) -> Document:
    """A letter with the record itself."""
    key, key_encoding = _text(letter["key"])
    value: Any = bytes(letter["value"])
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        value, encoding = base64.b64encode(value).decode(), "base64"
    else:
        # As it was written: reading it could lose digits of numbers.
        value, encoding = orjson.Fragment(value), "json"
    headers = [dict(zip(("name", "value", "encoding"), (n, *_text(v)), strict=True)) for n, v in letter["headers"]]
    return view(letter) | {
        "key": key,
        "key_encoding": key_encoding,
        "headers": headers,
        "value": value,
        "value_encoding": encoding,
    }


async def _require(request: web.Request) -> Document:
    id_ = request.match_info["letter_id"]
    found = await request.app[CONTEXT].dead_letters.letter(tenant_of(request), id_)
    if found is None:
        raise RequestProblem(
            "unknown-dead-letter", f"There is no dead letter {id_!r}; GET /dead-letters lists what there is."
        )
    return found


def _decided(letter: Mapping[str, Any], hint: str) -> RequestProblem:
    state = letter["state"]
    if state == LetterState.OPEN:
        return RequestProblem(
            "dead-letter-decided", f"Dead letter {letter['_id']!r} is being redriven at this moment; look again."
        )
    at, by = letter.get(f"{state}_at"), letter.get(f"{state}_by")
    when = f" at {at.isoformat()}" if at else ""
    return RequestProblem(
        "dead-letter-decided",
        f"Dead letter {letter['_id']!r} was {state}{when}{f' by {by}' if by else ''}. {hint}",
    )


def _text(value: bytes) -> tuple[str, str]:
    """Bytes as text, or as base64 where they are none; and which."""
    try:
        return bytes(value).decode(), "text"
    except UnicodeDecodeError:
        return base64.b64encode(value).decode(), "base64"


def _cursor(last: Mapping[str, Any]) -> str:
    place = orjson.dumps([last["died_at"].isoformat(), last["_id"]])
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def _read_cursor(text: str) -> tuple[datetime, str]:
    try:
        at, id_ = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        died_at = datetime.fromisoformat(at)
    except (ValueError, TypeError, binascii.Error) as error:
        raise invalid("query:cursor", "is not a cursor that this list gave") from error
    return died_at, str(id_)
