"""Wait for something with a deadline, where a sleep would be too long or too short.

``until`` is for tests on an event loop, ``until_blocking`` for the others. Both poll ``condition`` every ``every_s``
seconds and return its first value that is true, or of which ``holds`` says so. After ``within_s`` seconds they look
once more and raise AssertionError, which says what was awaited and which value was seen last, or what ``explain``
returns. What a condition raises ends the wait: a condition catches what it expects to be raised.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

WITHIN_S = 60.0
EVERY_S = 0.05
SHOWN_CHARACTERS = 6000

T = TypeVar("T")
Explain = Callable[[], object]


@overload
async def until(
    condition: Callable[[], Awaitable[T | None]],
    what: str,
    within_s: float = WITHIN_S,
    explain: Explain | None = None,
    *,
    holds: Callable[[T], object] = bool,
    every_s: float = EVERY_S,
) -> T: ...
@overload
async def until(
    condition: Callable[[], T | None],
    what: str,
    within_s: float = WITHIN_S,
    explain: Explain | None = None,
    *,
    holds: Callable[[T], object] = bool,
    every_s: float = EVERY_S,
) -> T: ...
async def until(
    condition: Callable[[], Any],
    what: str,
    within_s: float = WITHIN_S,
    explain: Explain | None = None,
    *,
    holds: Callable[[Any], object] = bool,
    every_s: float = EVERY_S,
) -> Any:
    """Poll a plain or an async condition without blocking the event loop."""
    deadline = time.monotonic() + within_s
    while True:
        late = time.monotonic() > deadline
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if holds(value):
            return value
        if late:
            raise _timeout(what, within_s, explain() if explain else value)
        await asyncio.sleep(every_s)


def until_blocking(
    condition: Callable[[], T | None],
    what: str,
    within_s: float = WITHIN_S,
    explain: Explain | None = None,
    *,
    holds: Callable[[T], object] = bool,
    every_s: float = EVERY_S,
) -> T:
    """Poll a condition in this thread."""
    deadline = time.monotonic() + within_s
    while True:
        late = time.monotonic() > deadline
        value: Any = condition()
        if holds(value):
            found: T = value
            return found
        if late:
            raise _timeout(what, within_s, explain() if explain else value)
        time.sleep(every_s)


def _timeout(what: str, within_s: float, seen: object) -> AssertionError:
    text = seen if isinstance(seen, str) else repr(seen)
    return AssertionError(f"not within {within_s:g} s: {what}; last seen: {text[-SHOWN_CHARACTERS:]}")
