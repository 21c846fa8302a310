"""How many living workers serve each graph, counted from their leases in ``workers``.

Contract: a worker lives while its document says ``alive`` and its lease has not expired by the database's clock; a killed one is
counted until then (``PERDURE_LEASE_TTL_S``, 10 s by default). :meth:`Workers.counts` asks the database; :attr:`Workers.warnings` is
what the background task saw last, so ``/ready`` costs no query.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from perdure.chassis.mongo import Database, server_time
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.stores.store import Store
from perdure.schemas.documents import WORKERS

INTERVAL_S: Final = 2.0


class Workers:
    """The living workers, by the graphs that they serve."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._workers = database[WORKERS]
        self._store = store
        self.warnings: list[str] = []
        """Why runs wait although they are accepted, one sentence a graph; empty while the database does not answer."""

    async def counts(self) -> Counter[str]:
        """Living workers by graph id.

        Raises:
            RequestProblem: ``store-unavailable``.

        """
        found = await self._store.read(self._alive)
        return Counter(graph for worker in found for graph in worker["graphs"])

    async def serving(self, graph_id: str) -> list[dict[str, Any]]:
        """The living workers that serve a graph: ``graphs`` and ``updates`` of their documents.

        Raises:
            RequestProblem: ``store-unavailable``.

        """
        return [worker for worker in await self._store.read(self._alive) if graph_id in worker["graphs"]]

    async def _alive(self) -> list[dict[str, Any]]:
        alive = {"state": "alive", "expires_at": {"$gt": await server_time(self._database)}}
        workers: list[dict[str, Any]] = await self._workers.find(alive, {"graphs": 1, "updates": 1}).to_list(None)
        return workers

    async def watch(self) -> None:
        """Observe until cancelled."""
        while True:
            try:
                graphs, counts = await asyncio.gather(self._store.graphs(), self.counts())
                self.warnings = warnings((graph["_id"] for graph in graphs), counts)
            except RequestProblem:
                self.warnings = []
            await asyncio.sleep(INTERVAL_S)


def warnings(graphs: Iterable[str], counts: Counter[str]) -> list[str]:
    """One sentence for each graph that no living worker serves; one in all if no worker has ever served any.

    Args:
        graphs: The ids of the registered graphs.
        counts: Living workers by graph id.

    """
    known = sorted(graphs)
    if not known:
        return ["No worker has registered a graph yet: start agent-step with a langgraph.json."]
    return [
        f"No living worker serves graph {graph!r}: its runs are accepted and wait. Start an agent-step that serves it."
        for graph in known
        if not counts[graph]
    ]
