"""Parts of a page: each comes from one server, and none waits for the others.

Contract: :func:`tried` never raises what a server or the visitor may cause: it answers what the part shows, or why it is not
there. A part that has no answer after :data:`PART_S` seconds is left out, so a page of parts that are awaited together takes no
longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from perdure.chassis.errors import UnavailableError
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.search.query import SearchProblem

PART_S: Final = 0.7
"""How long a part of a page may take, in seconds."""
INSTEAD_AFTER_S: Final = 0.2
"""When what may stand in for a part is asked for as well, in seconds."""
DATABASE: Final = "The database"
SEARCH: Final = "Search"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a part of a page is not there.

    Attributes:
        status: Of the answer, where the page is nothing but this part.
        text: For people.
        at: The character of the query where the mistake is.

    """

    status: int
    text: str
    at: int | None = None


async def tried(work: Awaitable[Any], server: str, within_s: float | None = PART_S) -> tuple[Any, Problem | None]:
    """What came of it, or why nothing did.

    Args:
        work: What to await.
        server: Who answers it, for people: :data:`DATABASE` or :data:`SEARCH`.
        within_s: Seconds that it may take; ``None`` leaves that to the work.

    """
    try:
        async with asyncio.timeout(within_s):
            return await work, None
    except TimeoutError:
        limit = "in time" if within_s is None else f"within {within_s:g} seconds"
        return None, Problem(503, f"{server} has not answered {limit}.")
    except SearchProblem as error:
        return None, Problem(422, f"{error.pointer.removeprefix('query:')}: {error.detail}", error.position)
    except UnavailableError as error:
        return None, Problem(503, f"{server} is away: {error.detail}.")
    except RequestProblem as error:
        return None, Problem(error.status, str(error))


async def or_instead(
    part: Awaitable[tuple[Any, Problem | None]], instead: Callable[[], Awaitable[tuple[Any, Problem | None]]]
) -> tuple[Any, Problem | None, Any, Problem | None]:
    """A part, and what stands in for it while its server is away: both end within :data:`PART_S` and a bit.

    ``instead`` is called when the part has failed with a status of 503 or takes longer than :data:`INSTEAD_AFTER_S`.

    Returns:
        What the part shows and its problem, then what ``instead`` shows and its problem; the latter two are ``None`` where the
        part itself is there.

    """
    first = asyncio.ensure_future(part)
    second: asyncio.Future[tuple[Any, Problem | None]] | None = None
    try:
        done, _ = await asyncio.wait({first}, timeout=INSTEAD_AFTER_S)
        if not done:
            second = asyncio.ensure_future(instead())
        shown, problem = await first
        if problem is None or problem.status != 503:
            return shown, problem, None, None
        return shown, problem, *(await (second or instead()))
    finally:
        first.cancel()
        if second is not None:
            second.cancel()
