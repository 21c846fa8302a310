"""What went over the wire: a transport for httpx that notes which parameters were sent and which came back, by operation.

A JSON body is noted by its keys, their values where these are words (``multitask_strategy=reject``), and the keys of objects in it
(``config.tags``), also of objects in a list. A key whose value is null does not count. The events of a stream are noted by name.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
from tests.compatibility.surface import operation_of

WORD_LENGTH = 40


class Wire(httpx.AsyncBaseTransport):
    """Passes requests on to a transport that many share, and notes them."""

    def __init__(self, shared: httpx.AsyncBaseTransport) -> None:
        self._shared = shared
        self._noted: dict[str, set[str]] = defaultdict(set)
        self._bodies: list[tuple[str, str, bytearray]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        operation = operation_of(request.method, request.url.path)
        answer = await self._shared.handle_async_request(request)
        if operation is None:
            return answer
        noted = self._noted[operation.name]
        noted.update(one for one in operation.parameters if one.startswith("path."))
        for name, value in request.url.params.multi_items():
            noted.update({f"query.{name}", f"query.{name}={value}"})
        noted.update(f"header.{name}" for name in _names(request.headers))
        if body := request.content:
            noted.update(f"body.{one}" for one in _keys(json.loads(body)))
        noted.update(f"answer_header.{name}" for name in _names(answer.headers))
        if answer.is_success:
            kept = bytearray()
            self._bodies.append((operation.name, answer.headers.get("Content-Type", ""), kept))
            stream = answer.stream
            assert isinstance(stream, httpx.AsyncByteStream)
            answer.stream = _Tee(stream, kept)
        return answer

    def noted(self) -> dict[str, set[str]]:
        """By operation, the parameters that were used so far; names of headers in lower case."""
        for operation, kind, body in self._bodies:
            if kind.startswith("text/event-stream"):
                self._noted[operation].update(f"event.{name}" for name in _events(bytes(body)))
            elif kind.startswith("application/json") and body.strip():
                try:
                    answered = json.loads(bytes(body))
                except ValueError:
                    continue  # the client went away in the middle
                self._noted[operation].update(f"answer.{one}" for one in _keys(answered))
        return self._noted

    async def aclose(self) -> None:
        """The shared transport is closed by its owner."""


class _Tee(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, kept: bytearray) -> None:
        self._stream = stream
        self._kept = kept

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            self._kept += part
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def _names(headers: httpx.Headers) -> Iterator[str]:
    return (name.lower() for name in headers)


def _keys(value: Any, depth: int = 2) -> set[str]:
    if isinstance(value, list):
        return set().union(*(_keys(one, depth) for one in value))
    if not isinstance(value, dict):
        return set()
    found: set[str] = set()
    for name, inner in value.items():
        if inner is None:
            continue
        found.add(name)
        found.update(f"{name}={one}" for one in (inner if isinstance(inner, list) else [inner]) if _is_word(one))
        if depth > 1:
            found.update(f"{name}.{key}" for key in _keys(inner, depth - 1))
    return found


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= WORD_LENGTH


def _events(body: bytes) -> Iterator[str]:
    for line in body.decode(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "event":
            yield value.strip().partition("|")[0]
        elif name == "id":
            yield "id"
