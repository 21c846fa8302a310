"""Restate: one node with all roles, its agents in one process under hypercorn; the driver is the HTTP client of the ingress.

The log is replicated to one node and synced to disk (its default); agents that wait are suspended after one second.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
from harness.processes import HOST, Child, free_port
from harness.session import main
from harness.system import System
from payload import STEPS, first_message

HERE = Path(__file__).resolve().parent
SUSPEND_AFTER_S = "1"
_WAL = re.compile(r"^restate_rocksdb_wal_bytes\w*\{[^}]*\} (\S+)", re.MULTILINE)


class Restate(System):
    """Server and agents, each a process."""

    title = "Restate"
    in_process = False
    reasons: ClassVar[dict[str, str]] = {
        "chat": "an agent's journal is replayed, not loaded; a conversation of 2,048 steps in one invocation is not its idiom"
    }
    persists = "the input once, then each step's result (one message)"
    stored_is = "bytes that its RocksDB wrote to write-ahead logs"

    async def open(self) -> None:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        ingress, admin, node, agents = (f"{HOST}:{free_port()}" for _ in range(4))
        self._ingress, self._node, self._agents = f"http://{ingress}", f"http://{node}", f"http://{agents}"
        env = {
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_ADMIN__DISABLE_WEB_UI": "true",
            "RESTATE_LOG_FILTER": "warn",
            "RESTATE_INGRESS__BIND_ADDRESS": ingress,
            "RESTATE_ADMIN__BIND_ADDRESS": admin,
            "RESTATE_BIND_ADDRESS": node,
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_NODE_NAME": "bench",
        }
        command = [str(self.home / "restate-server"), "--base-dir", str(self.scratch / "restate"), "--no-logo"]
        self._server = Child(command, self.scratch / "restate.log", env=env)
        hypercorn = [sys.executable, "-m", "hypercorn", "-w", "1", "-b", agents, "--log-level", "warning", "agents:app"]
        self._worker = Child(hypercorn, self.scratch / "agents.log", env={"SUSPEND_AFTER_S": SUSPEND_AFTER_S}, cwd=HERE)
        await self._server.until(lambda: self._ok("GET", f"http://{admin}/health"))
        await self._worker.until(lambda: self._ok("GET", f"{self._agents}/parked"))
        await self._server.until(lambda: self._ok("POST", f"http://{admin}/deployments", {"uri": self._agents}))

    async def close(self) -> None:
        for child in (getattr(self, "_worker", None), getattr(self, "_server", None)):
            if child:
                child.stop()
        await self._http.close()

    async def _ok(self, method: str, url: str, body: Any = None) -> bool:
        try:
            async with self._http.request(method, url, json=body) as answer:
                return answer.status < 300
        except aiohttp.ClientError:
            return False

    async def _call(self, path: str, body: Any = None, method: str = "POST") -> Any:
        async with self._http.request(method, f"{self._ingress}{path}", json=body) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path} was answered {answer.status}: {text[:200]}")
            return await answer.json(content_type=None) if text else None

    async def _result(self, workflow: str, key: str) -> Any:
        return await self._call(f"/restate/workflow/{workflow}/{key}/attach", method="GET")

    async def _chain(self, state_bytes: int, steps: int, *, full: bool) -> None:
        given = {"messages": [first_message(state_bytes)], "steps": steps, "full": full}
        assert await self._call("/chains/chain", given) == 1 + steps

    async def chain(self, key: str, state_bytes: int) -> None:  # noqa: ARG002
        await self._chain(state_bytes, STEPS, full=self.full_state)

    async def short(self, key: str) -> None:  # noqa: ARG002
        await self._chain(1024, 1, full=False)

    async def park(self, key: str) -> None:
        await self._call(f"/approvals/{key}/run/send", [first_message(1024)])

    async def parked(self) -> int:
        async with self._http.get(f"{self._agents}/parked") as answer:
            return int((await answer.json())["parked"])

    async def resume(self, key: str) -> None:
        await self._call(f"/approvals/{key}/approve", "yes")
        assert await self._result("approvals", key) == [3, "yes"]

    async def timer(self, key: str, due: float) -> float:
        async with self.rooms:
            await self._call(f"/sleepers/{key}/run/send", due)
        return float(await self._result("sleepers", key))

    async def fan_out(self, key: str, width: int) -> None:  # noqa: ARG002
        assert await self._call("/chains/fan_out", width) == width

    def processes(self) -> list[int]:
        return [self._server.pid, self._worker.pid]

    async def stored(self) -> dict[str, int]:
        async with self._http.get(f"{self._node}/metrics") as answer:
            written = _WAL.findall(await answer.text())
        return {"data": int(sum(map(float, written)))} if written else {}

    def about(self) -> dict[str, Any]:
        server = subprocess.run([self.home / "restate-server", "--version"], capture_output=True, text=True, check=True)
        names = ("restate-sdk", "hypercorn")
        return (
            {"restate-server": server.stdout.strip()}
            | {name: version(name) for name in names}
            | {
                "partitions": "24 (default)",
                "log": "replicated loglet, replication 1, WAL synced (default)",
                "suspended after": f"{SUSPEND_AFTER_S} s",
            }
        )


if __name__ == "__main__":
    main(Restate)
