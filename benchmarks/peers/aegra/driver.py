"""Aegra: an open server of the LangGraph Agent Server API on PostgreSQL, without Redis: one process that serves and runs.

The graphs are those that Perdure serves. Without Redis a run that is under way does not survive a crash of the server, as
its own log says; checkpoints and threads do.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar
from uuid import NAMESPACE_OID, uuid5

import aiohttp
import chain
from harness.postgres import Postgres
from harness.processes import HOST, Child, free_port
from harness.session import main
from harness.system import System
from payload import STEPS, first_message

GRAPHS = Path(chain.__file__).resolve().parent
SERVED = ("chain", "short", "approve", "chat", "fanout", "tokens")
CLIENTS = 64
KEPT_S = 2.0
"""Its server closes a connection that was idle for five seconds."""
_ENDS = {"success", "error", "timeout", "interrupted"}


class Aegra(System):
    """Server and database."""

    title = "Aegra"
    in_process = False
    reasons: ClassVar[dict[str, str]] = {
        "timers": "the Agent Server API has no durable timer for a node",
        "chain-64k-message": "a channel is stored whole: see chain-64k",
    }
    persists = "the whole changed channel (the message list) and its pending writes"
    stored_is = "pg_database_size; journal: write-ahead log"

    async def open(self) -> None:
        self._postgres = Postgres(self.scratch / "postgres")
        await self._postgres.open()
        port = free_port()
        self._url = f"http://{HOST}:{port}"
        known = json.loads((GRAPHS / "langgraph.json").read_text())["graphs"]
        served = {name: f"{GRAPHS}/{known[name].removeprefix('./')}" for name in SERVED}
        (self.scratch / "aegra.json").write_text(json.dumps({"graphs": served}))
        env = {
            "AEGRA_CONFIG": str(self.scratch / "aegra.json"),
            "DATABASE_URL": self._postgres.create("bench"),
            "HOST": HOST,
            "PORT": str(port),
            "SERVER_URL": self._url,
            "ENV_MODE": "PRODUCTION",
            "LOG_LEVEL": "WARNING",
            "REDIS_BROKER_ENABLED": "false",
        }
        command = [sys.executable, "-m", "uvicorn", "aegra_api.main:app", "--host", HOST, "--port", str(port)]
        command += ["--no-access-log", "--log-level", "warning"]
        self._server = Child(command, self.scratch / "aegra.log", env=env, cwd=self.scratch)
        self._http = aiohttp.ClientSession(
            self._url,
            connector=aiohttp.TCPConnector(limit=CLIENTS, keepalive_timeout=KEPT_S),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        await self._server.until(self._answers)
        self._parked = 0

    def agent_server(self) -> str:
        return self._url

    async def close(self) -> None:
        if hasattr(self, "_http"):
            await self._http.close()
        if hasattr(self, "_server"):
            self._server.stop()
        self._postgres.close()

    async def _answers(self) -> bool:
        try:
            async with self._http.get("/health") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        async with self._http.request(method, path, json=body) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path} was answered {answer.status}: {text[:200]}")
            return json.loads(text)

    async def _run(
        self, key: str, graph: str, *, new: bool = True, want: str = "success", **body: Any
    ) -> dict[str, Any]:
        """A background run and its join, until it has ended as wanted; returns the thread's values."""
        thread = str(uuid5(NAMESPACE_OID, key))
        if new:
            await self._call("POST", "/threads", {"thread_id": thread, "if_exists": "do_nothing"})
        began = time.perf_counter()
        config = {"recursion_limit": 10_000}
        run = await self._call("POST", f"/threads/{thread}/runs", {"assistant_id": graph, "config": config, **body})
        self.ack_s.append(time.perf_counter() - began)
        path = f"/threads/{thread}/runs/{run['run_id']}"
        values = await self._call("GET", f"{path}/join")
        pause = 0.002
        while (status := (await self._call("GET", path))["status"]) not in _ENDS:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.2)
        if status != want:
            raise RuntimeError(f"the run ended with {status}")
        return dict(values or {})

    async def chain(self, key: str, state_bytes: int) -> None:
        values = await self._run(key, "chain", input={"messages": [first_message(state_bytes)]})
        assert len(values["messages"]) == 1 + STEPS

    async def short(self, key: str) -> None:
        values = await self._run(key, "short", input={"messages": [first_message(1024)]})
        assert len(values["messages"]) == 2

    async def park(self, key: str) -> None:
        await self._run(key, "approve", want="interrupted", input={"messages": [first_message(1024)]})
        self._parked += 1

    async def parked(self) -> int:
        return self._parked

    async def resume(self, key: str) -> None:
        values = await self._run(key, "approve", new=False, command={"resume": "yes"})
        assert values["messages"][-1]["answer"] == "yes"

    async def talk(self, key: str, until: int) -> None:
        values = await self._run(key, "chat", input={"until": until})
        assert len(values["messages"]) == until

    async def recall(self, key: str) -> int:
        state = await self._call("GET", f"/threads/{uuid5(NAMESPACE_OID, key)}/state")
        return len(state["values"]["messages"])

    async def fan_out(self, key: str, width: int) -> None:
        values = await self._run(key, "fanout", input={"width": width})
        assert values["joined"] == width

    def processes(self) -> list[int]:
        return [self._server.pid, *self._postgres.pids]

    async def stored(self) -> dict[str, int]:
        return self._postgres.stored("bench")

    def about(self) -> dict[str, Any]:
        names = ("aegra-api", "langgraph", "langgraph-checkpoint-postgres")
        return {name: version(name) for name in names} | {"redis": "none"} | self._postgres.about()


if __name__ == "__main__":
    main(Aegra)
