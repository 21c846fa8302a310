"""LangGraph with MongoDBSaver, on the same MongoDB-compatible server, with the same flags, that Perdure is measured on.

The saver is synchronous; its async methods run in threads. ``run.py`` starts the server and names it in ``PERDURE_BENCH_MONGODB``
(its URI) and ``PERDURE_BENCH_MONGODB_PID``.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

from harness.langgraph_system import LangGraphSystem
from harness.mongodb import bson_bytes
from harness.session import main
from langgraph.checkpoint.mongodb import MongoDBSaver
from pymongo import MongoClient


class LangGraphMongoDB(LangGraphSystem):
    """Majority-acknowledged and journaled writes."""

    title = "LangGraph + MongoDBSaver"
    persists = "the whole state, and its pending writes"
    stored_is = "BSON bytes of all documents"

    async def open(self) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            os.environ["PERDURE_BENCH_MONGODB"], w="majority", journal=True
        )
        self.use([MongoDBSaver(self._client, "bench")])

    async def close(self) -> None:
        if hasattr(self, "_client"):
            self._client.close()

    def processes(self) -> list[int]:
        return [int(os.environ["PERDURE_BENCH_MONGODB_PID"])]

    async def stored(self) -> dict[str, int]:
        return {"data": bson_bytes(self._client["bench"])}

    def about(self) -> dict[str, Any]:
        names = ("langgraph", "langgraph-checkpoint-mongodb", "pymongo")
        server = self._client.server_info()["version"]
        return {name: version(name) for name in names} | {
            "mongodb": server,
            "writes": "w=majority, j=true, sync on commit",
        }


if __name__ == "__main__":
    main(LangGraphMongoDB)
