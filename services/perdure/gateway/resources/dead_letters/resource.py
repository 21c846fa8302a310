"""Dead letters: look at them, redrive them, drop them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from perdure.gateway.auth.caller import caller_of
from perdure.gateway.http.cursors import cursor_at, require_cursor_at
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.requests import query_bool, query_choice, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, CURSOR, FLAG, TEXT, Parameter, Route, page_of
from perdure.gateway.http.thread_ids import query_thread
from perdure.gateway.resources.dead_letters.store import DeadLetterStore
from perdure.schemas import deadletter_http
from perdure.schemas.deadletter import LetterState
from perdure.schemas.deadletter_documents import UNOWNED
from perdure.schemas.deadletter_http import DeadLetter, Decision, RedriveMany
from perdure.schemas.scopes import Scope

Document = dict[str, Any]

PAGE = 50
MAX_PAGE = 1000
FILTERS = ("topic", "reason", "type", "thread_id")
SHOWN = tuple(name for name in DeadLetter.model_fields if name != "id")


class DeadLettersResource:
    """Dead letters: look at them, redrive them, drop them."""

    def __init__(self, letters: DeadLetterStore) -> None:
        self._letters = letters

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "GET", "/dead-letters", self.list_letters, "listDeadLetters", "Dead letters, newest first",
                "Dead letters", {200: deadletter_http.DeadLetterPage},
                parameters=(
                    page_of(50, 1000), CURSOR,
                    Parameter("state", {"enum": ["open", "redriven", "dropped"]}),
                    *(Parameter(name, TEXT) for name in ("topic", "reason", "type", "thread_id")),
                ), scope=Scope.DEAD_LETTERS_READ,
            ),
            Route(
                "GET", "/dead-letters/{letter_id}", self.get, "getDeadLetter", "A dead letter and its record",
                "Dead letters", {200: deadletter_http.DeadLetterContent}, problems=("unknown-dead-letter",),
                scope=Scope.DEAD_LETTERS_READ,
            ),
            Route(
                "POST", "/dead-letters/{letter_id}/redrive", self.redrive, "redriveDeadLetter",
                "Send the record to its topic again, as it was", "Dead letters", {200: deadletter_http.DeadLetter},
                deadletter_http.Decision, (Parameter("force", FLAG, "Also when it was redriven or dropped."),),
                (*BODY, "unknown-dead-letter", "dead-letter-decided", "redrive-refused", "kafka-unavailable"),
                scope=Scope.DEAD_LETTERS_WRITE,
            ),
            Route(
                "POST", "/dead-letters/redrive", self.redrive_many, "redriveDeadLetters",
                "Redrive open dead letters, the oldest first", "Dead letters", {200: deadletter_http.RedrivenMany},
                deadletter_http.RedriveMany, problems=(*BODY, "kafka-unavailable"), scope=Scope.DEAD_LETTERS_WRITE,
            ),
            Route(
                "POST", "/dead-letters/{letter_id}/drop", self.drop, "dropDeadLetter", "Give a dead letter up",
                "Dead letters", {200: deadletter_http.DeadLetter}, deadletter_http.Decision,
                problems=(*BODY, "unknown-dead-letter", "dead-letter-decided"), scope=Scope.DEAD_LETTERS_WRITE,
            ),
        )
        # fmt: on

    async def list_letters(self, request: web.Request) -> web.Response:
        """``GET /dead-letters``."""
        limit = query_int(request, "limit", PAGE, low=1, high=MAX_PAGE)
        fits = {name: request.query[name] for name in FILTERS if name in request.query}
        if (thread_id := query_thread(request)) is not None:
            fits["thread_id"] = thread_id
        state = query_choice(request, "state", [state.value for state in LetterState])
        if state is not None:
            fits["state"] = state
        after = require_cursor_at(request.query["cursor"]) if "cursor" in request.query else None
        found = await self._letters.page(_tenants(request), fits, limit + 1, after)
        page = found[:limit]
        cursor = cursor_at(page[-1], "died_at") if len(found) > limit else None
        return json_response({"items": [letter_view(letter) for letter in page], "cursor": cursor})

    async def get(self, request: web.Request) -> web.Response:
        """``GET /dead-letters/{letter_id}``."""
        return json_response(letter_content(await self._require(request)))

    async def redrive(self, request: web.Request) -> web.Response:
        """``POST /dead-letters/{letter_id}/redrive``."""
        force = query_bool(request, "force")
        decision, _ = await read_body(request, Decision)
        id_ = request.match_info["letter_id"]
        done = await self._letters.redrive(_tenants(request), [id_], caller_of(request).signs(decision.by), force=force)
        if id_ in done.refused:
            raise RequestProblem("redrive-refused", f"Dead letter {id_!r} cannot be redriven: {done.refused[id_]}.")
        letter = await self._require(request)
        if id_ not in done.sent:
            raise _decided(letter, "POST .../redrive?force=true redrives it all the same.")
        return json_response(letter_view(letter))

    async def redrive_many(self, request: web.Request) -> web.Response:
        """``POST /dead-letters/redrive``: open letters that fit, the oldest first."""
        wanted, _ = await read_body(request, RedriveMany)
        tenants, signature = _tenants(request), caller_of(request).signs(wanted.by)
        fits = {name: str(value) for name in FILTERS if (value := getattr(wanted, name)) is not None}
        chunks = await self._letters.open_ids(tenants, fits, wanted.limit + 1)
        sent: list[str] = []
        refused: list[Document] = []
        left = wanted.limit
        for chunk in chunks:
            done = await self._letters.redrive(tenants, chunk[:left], signature)
            left -= min(left, len(chunk))
            sent += done.sent
            refused += [{"id": id_, "detail": why} for id_, why in done.refused.items()]
        more = sum(map(len, chunks)) > wanted.limit
        return json_response({"redriven": sent, "refused": refused, "more": more})

    async def drop(self, request: web.Request) -> web.Response:
        """``POST /dead-letters/{letter_id}/drop``."""
        decision, _ = await read_body(request, Decision)
        id_ = request.match_info["letter_id"]
        dropped = await self._letters.drop(_tenants(request), id_, caller_of(request).signs(decision.by))
        letter = await self._require(request)
        if not dropped:
            raise _decided(letter, "Only open letters can be dropped.")
        return json_response(letter_view(letter))

    async def _require(self, request: web.Request) -> Document:
        id_ = request.match_info["letter_id"]
        found = await self._letters.letter(_tenants(request), id_)
        if found is None:
            raise RequestProblem(
                "unknown-dead-letter", f"There is no dead letter {id_!r}; GET /dead-letters lists what there is."
            )
        return found


def _tenants(request: web.Request) -> list[str]:
    """Whose letters a caller sees: its tenant's, and those that belong to none if it may act for any tenant."""
    caller = caller_of(request)
    return [caller.tenant, *([UNOWNED] if caller.may(Scope.TENANTS_ANY) else ())]


def letter_view(letter: Mapping[str, Any]) -> Document:
    """A letter as clients see it in lists."""
    return {"id": letter["_id"], **{name: letter.get(name) for name in SHOWN}}


def letter_content(letter: Mapping[str, Any]) -> Document:
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
    return letter_view(letter) | {
        "key": key,
        "key_encoding": key_encoding,
        "headers": headers,
        "value": value,
        "value_encoding": encoding,
    }


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
