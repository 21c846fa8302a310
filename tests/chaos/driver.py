"""Drives the agents over HTTP, as clients do who do not give up: starts, signals, answers, each with an idempotency key.

Contract: what the system acknowledged is in the driver's own log, on disk, before anything follows from it; the log is what the
checker holds the system to. A request without an answer (connection lost, 5xx) is repeated with the same key until it has one or
the driver's time is over. Outside: judging.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tests.chaos.agents import Agent, Say, agent
from tests.chaos.readers import MODES

PATIENCE_S = 0.4
"""Between two attempts."""
TIMEOUT_S = 15.0
CONNECTIONS = 200
FOLLOWED = 15
"""The stream of every so many-th agent is read."""


@dataclass(frozen=True)
class Answer:
    """What the system answered."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class GivenUp(Exception):
    """The driver's time was over before the system answered."""


class AckLog:
    """What was acknowledged: one JSON object a line, on disk before :meth:`write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, what: str, **fields: Any) -> None:
        """Add one entry."""
        os.write(self._file, json.dumps({"what": what, "at": time.time(), **fields}).encode() + b"\n")
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log of lines; none without a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Driver:
    """Keeps starting agents until it is told to finish, then serves those that are left.

    Args:
        url: The gateway's.
        log: Where acknowledgements go.
        seed: Of the agents.
        per_s: Agents started a second.
        follow: Called with the thread of each agent whose stream is read.
        credentials: Headers that say who calls.

    """

    def __init__(
        self,
        url: str,
        log: Path,
        seed: int,
        per_s: float,
        follow: Callable[[str], None],
        credentials: Mapping[str, str],
    ) -> None:
        self._url = url
        self._credentials = credentials
        self._follow = follow
        self._log = AckLog(log)
        self._seed = seed
        self._per_s = per_s
        self._give_up_at = float("inf")
        self.counts: Counter[str] = Counter()
        self._http: aiohttp.ClientSession

    async def run(self, seconds: float, serve_s: float) -> None:
        """Start agents for ``seconds``, then serve those that are left for ``serve_s`` more at most."""
        began = time.monotonic()
        self._give_up_at = began + seconds + serve_s
        timeout = aiohttp.ClientTimeout(sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(
                self._url,
                timeout=timeout,
                connector=aiohttp.TCPConnector(limit=CONNECTIONS),
                headers=self._credentials,
            ) as self._http,
            asyncio.TaskGroup() as tasks,
        ):
            number = 0
            while (elapsed := time.monotonic() - began) < seconds:
                while number < elapsed * self._per_s:
                    tasks.create_task(self._serve(agent(self._seed, number)))
                    number += 1
                await asyncio.sleep(0.1)
        self._log.close()

    async def _serve(self, one: Agent) -> None:
        self.counts["agents"] += 1
        try:
            thread_id = await self._start(one)
            async with asyncio.TaskGroup() as tasks:
                for given in range(1, len(one.inputs)):
                    tasks.create_task(self._start(one, given, thread_id))
                for say in one.says:
                    tasks.create_task(self._say(one, thread_id, say))
                if one.answer is not None:
                    tasks.create_task(self._answer(one, thread_id, one.answer))
        except* GivenUp:
            self.counts["given up"] += 1

    async def _start(self, one: Agent, given: int = 0, thread_id: str | None = None) -> str:
        key = f"agent-{self._seed}-{one.number}-{given}"
        path = f"/threads/{thread_id}/runs" if thread_id else "/runs"
        body: dict[str, Any] = {
            "assistant_id": one.graph,
            "input": one.inputs[given],
            "metadata": {"agent": one.number},
        }
        if followed := one.number % FOLLOWED == 0:
            body["stream_mode"] = MODES
        answer = await self._request("POST", path, key, body, expected=(202,))
        found = answer.json()
        self._log.write(
            "start", key=key, agent=one.number, graph=one.graph, thread=found["thread_id"], run=found["run_id"]
        )
        self.counts["starts"] += 1
        if followed:
            self._follow(found["thread_id"])
        return str(found["thread_id"])

    async def _say(self, one: Agent, thread_id: str, say: Say) -> None:
        await asyncio.sleep(say.after_s)
        key = f"signal-{self._seed}-{one.number}-{say.name}-{say.n}"
        for copy in range(say.copies):
            path = f"/threads/{thread_id}/signals/{say.name}"
            answer = await self._request("POST", path, key, {"payload": {"n": say.n}}, expected=(200, 202))
            found = answer.json()
            self._log.write(
                "signal", key=key, agent=one.number, thread=thread_id, name=say.name, n=say.n, copy=copy, answer=found
            )
            self.counts["signals"] += 1

    async def _answer(self, one: Agent, thread_id: str, n: int) -> None:
        """Look into the inbox until the thread asks, then answer the question."""
        while not (found := (await self._request("GET", f"/approvals?thread_id={thread_id}")).json()["approvals"]):
            await asyncio.sleep(1.0)
        approval = found[0]["approval_id"]
        body = {"answer": {"n": n, "approved": True}, "by": "chaos"}
        answer = await self._request("POST", f"/approvals/{approval}", None, body, expected=(200, 202, 409))
        self._log.write("answer", agent=one.number, thread=thread_id, approval=approval, n=n, status=answer.status)
        self.counts["answers"] += 1

    async def _request(
        self, method: str, path: str, key: str | None = None, body: Any = None, expected: tuple[int, ...] = (200,)
    ) -> Answer:
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            if time.monotonic() > self._give_up_at:
                raise GivenUp(f"{method} {path}")
            try:
                async with self._http.request(method, path, json=body, headers=headers) as response:
                    answer = Answer(response.status, await response.read())
            except (aiohttp.ClientError, TimeoutError):
                self.counts["no answer"] += 1
            else:
                if answer.status in expected:
                    return answer
                self.counts[f"answered {answer.status}"] += 1
                if answer.status < 500:
                    said = answer.body[:500].decode(errors="replace")
                    self._log.write("refused", method=method, path=path, status=answer.status, body=said)
            await asyncio.sleep(PATIENCE_S)
