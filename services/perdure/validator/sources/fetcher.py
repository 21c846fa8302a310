"""Python functions of the project that read the world: ``"perdure": {"fetchers": {"quote": "./fetchers.py:quote"}}``.

Contract: a function, ordinary or ``async``, takes the premise's ``arguments`` by name and returns what JSON can say. What it raises
makes the premise unknown after the attempts. An ordinary one runs in threads of its own fetcher: one that hangs holds up no other.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from perdure.schemas.validation import FetcherSource
from perdure.validator.sources.errors import SourceError
from perdure.validator.sources.plain import plain

Fetcher = Callable[..., Any]


class FetcherReader:
    """Reads :class:`FetcherSource`.

    Args:
        fetchers: The functions by name.
        threads: Calls of one ordinary function at once. A call cannot be stopped: one that is given up keeps its thread.

    """

    def __init__(self, fetchers: Mapping[str, Fetcher], threads: int) -> None:
        self._fetchers = dict(fetchers)
        self._threads = {
            name: ThreadPoolExecutor(threads, thread_name_prefix=f"fetcher-{name}")
            for name, function in fetchers.items()
            if not inspect.iscoroutinefunction(function)
        }

    def key(self, source: FetcherSource) -> str:
        """The fetcher."""
        if source.name not in self._fetchers:
            raise SourceError(
                f'no fetcher {source.name!r} in "perdure": {{"fetchers": ...}} of langgraph.json (there are: '
                f"{', '.join(sorted(self._fetchers)) or 'none'})",
                retryable=False,
            )
        return f"fetcher {source.name}"

    async def read(self, source: FetcherSource, _timeout_s: float) -> Any:
        """Call it."""
        where = self.key(source)
        call = partial(self._fetchers[source.name], **source.arguments)
        threads = self._threads.get(source.name)
        try:
            if threads is None:
                value = await call()
            else:
                value = await asyncio.get_running_loop().run_in_executor(threads, call)
        except Exception as error:
            # The project's code may raise anything; what it means is always the same: there is no value.
            raise SourceError(f"{where} failed: {type(error).__name__}: {error}"[:500], retryable=True) from error
        try:
            return plain(value)
        except SourceError as error:
            raise SourceError(f"{where}: {error}", retryable=False) from error

    async def close(self) -> None:
        """Take no more calls; those that hang are not waited for."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)
