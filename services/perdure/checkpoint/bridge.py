"""Brings calls from any thread or event loop to the one loop that serves a saver.

Contract: a bridge belongs to the event loop that it was made on (``here``) or else to the loop of its first use: an
asynchronous call brings the caller's loop, a synchronous call starts a private loop on a thread of its own. A
synchronous call from another thread waits for the loop; on the loop's own thread it raises instead of waiting for
itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from perdure.checkpoint.errors import Closed, WrongThread

T = TypeVar("T")


class Bridge:
    """One event loop and the ways to it."""

    def __init__(self, *, here: bool = True) -> None:
        self._loop: asyncio.AbstractEventLoop | None = _running_loop() if here else None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def private(self) -> bool:
        """Whether the loop is the bridge's own."""
        return self._thread is not None

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await ``coroutine`` on the bridge's loop."""
        here = asyncio.get_running_loop()
        if self._loop is here and not self._closed:
            return await coroutine
        loop = self._bind(coroutine, here)
        if loop is here:
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))

    def call(self, method: str, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run ``coroutine`` on the bridge's loop and wait for it.

        Raises:
            WrongThread: This is the thread of that very loop.

        """
        loop = self._bind(coroutine, None)
        if _running_loop() is loop:
            coroutine.close()
            raise WrongThread(method)
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    def close(self) -> None:
        """End the private loop, if there is one."""
        self._closed = True
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _bind(
        self, coroutine: Coroutine[Any, Any, Any], here: asyncio.AbstractEventLoop | None
    ) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed or (self._loop is not None and self._loop.is_closed()):
                coroutine.close()
                raise Closed
            if self._loop is None:
                self._loop = here or self._start()
            return self._loop

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()

        def serve() -> None:
            asyncio.set_event_loop(loop)
            try:
                loop.run_forever()
                loop.run_until_complete(loop.shutdown_asyncgens())
            finally:
                loop.close()

        self._thread = threading.Thread(target=serve, name="perdure-notebook", daemon=True)
        self._thread.start()
        return loop


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
