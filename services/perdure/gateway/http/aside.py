"""Work beside the event loop that a client's request may make long: a few pieces at once, the others wait.

Contract: work of one kind has threads of its own, so that it holds up no other kind, and the loop runs while it lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Aside:
    """A few threads.

    Args:
        threads: Pieces of work at once.
        name: Of the work, for the names of the threads.

    """

    def __init__(self, threads: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the work returns or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **kwargs))
