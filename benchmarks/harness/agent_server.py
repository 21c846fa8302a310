"""Calls of the Agent Server API that are measured in the same way on every system that serves it."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import aiohttp

LIMIT_S = 60.0


class AgentServer:
    """A client of one server.

    Args:
        url: Of the server, without a path.

    """

    def __init__(self, url: str) -> None:
        self._http = aiohttp.ClientSession(
            url,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0),
            timeout=aiohttp.ClientTimeout(total=LIMIT_S),
        )
        self.waited_s: list[float] = []
        """What each :meth:`wait` took, without making its thread."""

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def words(self, key: str) -> list[float]:
        """Run ``tokens`` as a stream; for each word the seconds from the moment when it was said until it was read here.

        Raises:
            RuntimeError: the stream ended without all of the words, or with an error.

        """
        thread = await self._thread(key)
        body = {
            "assistant_id": "tokens",
            "input": {"messages": [{"role": "user", "content": "What time is it?"}]},
            "stream_mode": ["messages-tuple"],
        }
        took, event, rest = list[float](), b"", b""
        async with self._http.post(f"/threads/{thread}/runs/stream", json=body) as answer:
            if answer.status != 200:
                raise RuntimeError(f"the stream was answered {answer.status}: {(await answer.text())[:200]}")
            async for part in answer.content.iter_any():
                now = time.time()
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    if line.startswith(b"event:"):
                        event = line[6:].strip()
                    elif line.startswith(b"data:") and event == b"messages":
                        chunk, _ = json.loads(line[5:])
                        if chunk["type"] == "AIMessageChunk":
                            took += [now - float(word) for word in str(chunk["content"]).split()]
                    elif line.startswith(b"data:") and event == b"error":
                        raise RuntimeError(f"the stream said: {line[5:200].decode()}")
        return took

    async def wait(self, key: str, messages: list[dict[str, Any]]) -> None:
        """Run ``short`` by ``runs/wait``, on a thread that is there; raises if its result is not that of one step."""
        thread = await self._thread(key)
        began = time.perf_counter()
        body = {"assistant_id": "short", "input": {"messages": messages}}
        async with self._http.post(f"/threads/{thread}/runs/wait", json=body) as answer:
            values = json.loads(await answer.read())
        self.waited_s.append(time.perf_counter() - began)
        if len(values["messages"]) != 1 + len(messages):
            raise RuntimeError(f"the run answered {str(values)[:200]}")

    async def _thread(self, key: str) -> str:
        thread = str(uuid5(NAMESPACE_OID, key))
        async with self._http.post("/threads", json={"thread_id": thread, "if_exists": "do_nothing"}) as answer:
            if answer.status != 200:
                raise RuntimeError(f"POST /threads was answered {answer.status}: {(await answer.text())[:200]}")
        return thread
