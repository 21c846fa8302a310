"""LangGraph with AsyncPostgresSaver, four of them in one process.

Each has one lock around all of its work with the database, so that one alone (as its documentation shows) is slower under load.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from harness.langgraph_system import LangGraphSystem
from harness.postgres import Postgres
from harness.session import main
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

SAVERS = 4


class LangGraphPostgres(LangGraphSystem):
    """On a cluster of its own."""

    title = "LangGraph + PostgresSaver"
    stored_is = "pg_database_size; journal: write-ahead log"

    async def open(self) -> None:
        self._postgres = Postgres(self.scratch / "postgres")
        await self._postgres.open()
        url = self._postgres.create("bench")
        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        self._pool: Any = AsyncConnectionPool(url, min_size=SAVERS, max_size=SAVERS, open=False, kwargs=options)
        await self._pool.open()
        savers = [AsyncPostgresSaver(self._pool) for _ in range(SAVERS)]
        await savers[0].setup()
        self.use(list(savers))

    async def close(self) -> None:
        if hasattr(self, "_pool"):
            await self._pool.close()
        self._postgres.close()

    def processes(self) -> list[int]:
        return self._postgres.pids

    async def stored(self) -> dict[str, int]:
        return self._postgres.stored("bench")

    def about(self) -> dict[str, Any]:
        names = ("langgraph", "langgraph-checkpoint-postgres", "psycopg")
        return {name: version(name) for name in names} | {"savers": SAVERS} | self._postgres.about()


if __name__ == "__main__":
    main(LangGraphPostgres)
