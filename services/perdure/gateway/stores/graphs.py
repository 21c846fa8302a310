"""The graphs that workers have registered, cached.

Contract: :meth:`ServedGraphs.resolve` answers from memory; for an id that is not known the collection is read again first, by a
reading that begins after the request came: what was registered before it is found. Those who wait share a reading, and there is
at most one every ``MISS_INTERVAL_S`` seconds. A background task reads it every ``refresh_s`` seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from perdure.chassis.telemetry import logger
from perdure.gateway.http.problems import RequestProblem
from perdure.registry.runs import assistant_id_of
from perdure.schemas.documents import GraphDocument

log = logger(__name__)

MISS_INTERVAL_S = 0.2
NAMED_AT_MOST = 20


class ServedGraphs:
    """The known graphs, by graph id and by assistant id."""

    def __init__(
        self, fetch: Callable[[], Awaitable[list[GraphDocument]]], refresh_s: float, *, asks_handlers: bool = True
    ) -> None:
        """``asks_handlers``: the gateway asks the ``auth`` handlers of the project."""
        self._asks_handlers = asks_handlers
        self._fetch = fetch
        self._refresh_s = refresh_s
        self._by_name: dict[str, GraphDocument] = {}
        self._graphs: list[GraphDocument] = []
        self._reading: asyncio.Task[None] | None = None
        self._read_at = float("-inf")

    async def resolve(self, assistant_id: str) -> GraphDocument:
        """The graph that a graph id or an assistant id names.

        Raises:
            RequestProblem: ``unknown-graph``, ``not-ready`` while no graph is registered, ``store-unavailable``;
                ``auth-unavailable`` for a graph whose project has ``auth`` handlers that this gateway does not ask.

        """
        found = self._by_name.get(assistant_id)
        if found is None:
            await self._read_since(_now())
            found = self._by_name.get(assistant_id)
        if found is not None:
            if found.get("asks_handlers") and not self._asks_handlers:
                raise RequestProblem(
                    "auth-unavailable",
                    f"The project of graph {found['_id']!r} has auth handlers, and this gateway was started without them. Set "
                    "PERDURE_LANGGRAPH_CONFIG of the gateway to the project's langgraph.json.",
                )
            return found
        if not self._graphs:
            raise RequestProblem(
                "not-ready",
                "No agent-step worker has registered a graph yet. Start agent-step with a langgraph.json and try again.",
                headers={"Retry-After": "2"},
            )
        names = [graph["_id"] for graph in self._graphs]
        more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
        raise RequestProblem(
            "unknown-graph",
            f"There is no graph or assistant {assistant_id!r}. Known graphs: {', '.join(names[:NAMED_AT_MOST])}{more}.",
        )

    async def all(self) -> list[GraphDocument]:
        """All graphs, by name."""
        await self.refresh()
        return self._graphs

    async def refresh(self) -> None:
        """Read the collection, unless it was read a moment ago."""
        await self._read_since(_now() - MISS_INTERVAL_S)

    async def keep_fresh(self) -> None:
        """Refresh until cancelled."""
        while True:
            try:
                await self.refresh()
            except RequestProblem as problem:
                log.debug("gateway.registry_not_read", reason=str(problem))
            await asyncio.sleep(self._refresh_s)

    async def _read_since(self, moment: float) -> None:
        """Return when the collection has been read by a reading that began at ``moment`` or later."""
        while self._read_at < moment:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read(), name="registry-read")
                self._reading.add_done_callback(_forgiven)
            await asyncio.shield(self._reading)

    async def _read(self) -> None:
        await asyncio.sleep(max(0.0, self._read_at + MISS_INTERVAL_S - _now()))
        began = _now()
        graphs = sorted(await self._fetch(), key=lambda graph: graph["_id"])
        self._graphs = graphs
        self._by_name = {graph["_id"]: graph for graph in graphs} | {
            assistant_id_of(graph["_id"]): graph for graph in graphs
        }
        self._read_at = began


def _now() -> float:
    return asyncio.get_running_loop().time()


def _forgiven(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # those who wait have it
