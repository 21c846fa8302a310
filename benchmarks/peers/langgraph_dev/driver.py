"""``langgraph dev``: the Agent Server that LangGraph's command line runs for development. It keeps its data in memory."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import chain
from harness.processes import HOST, Child, free_port
from harness.session import main
from harness.system import System

GRAPHS = Path(chain.__file__).resolve().parent
SERVED = ("short", "tokens")
IN_MEMORY = "it keeps its data in memory: nothing is durable, so there is nothing to compare"
OTHERS = ("chain", "hibernate", "timers", "sleepers", "chat", "fanout", "batch", "soak")


class LangGraphDev(System):
    """One process."""

    title = "langgraph dev"
    in_process = False
    reasons: ClassVar[dict[str, str]] = dict.fromkeys(OTHERS, IN_MEMORY)
    persists = "nothing: memory, with a file for development"
    stored_is = "nothing"

    async def open(self) -> None:
        port = free_port()
        self._url = f"http://{HOST}:{port}"
        known = json.loads((GRAPHS / "langgraph.json").read_text())["graphs"]
        served = {name: f"{GRAPHS}/{known[name].removeprefix('./')}" for name in SERVED}
        (self.scratch / "langgraph.json").write_text(json.dumps({"graphs": served, "dependencies": ["."]}))
        command = [str(Path(sys.executable).parent / "langgraph"), "dev", "--no-browser", "--no-reload"]
        command += ["--host", HOST, "--port", str(port), "--n-jobs-per-worker", "50", "--allow-blocking"]
        env = {"LANGSMITH_TRACING": "false", "LOG_LEVEL": "warning", "LANGGRAPH_NO_VERSION_CHECK": "true"}
        self._server = Child(command, self.scratch / "langgraph.log", env=env, cwd=self.scratch)
        await self._server.until(self._answers)

    def agent_server(self) -> str:
        return self._url

    async def close(self) -> None:
        if hasattr(self, "_server"):
            self._server.stop()

    async def _answers(self) -> bool:
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self._url}/ok") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    def processes(self) -> list[int]:
        return [self._server.pid]

    def about(self) -> dict[str, Any]:
        return {name: version(name) for name in ("langgraph-api", "langgraph-cli", "langgraph")}


if __name__ == "__main__":
    main(LangGraphDev)
