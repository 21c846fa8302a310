"""What the gateway says about graphs that no living worker serves: `/graphs`, `/ready`, the console."""

from __future__ import annotations

from typing import Any

import httpx
from tests.support.polling import until

from perdure.chassis.mongo import from_now


async def _lease(waiting: Any, name: str, graphs: list[str], ttl_s: float, state: str = "alive") -> None:
    fields = {"graphs": graphs, "state": state, "slots": 1, "expires_at": from_now(ttl_s)}
    await waiting.database.workers.update_one({"_id": name}, [{"$set": fields}], upsert=True)


async def _workers(waiting: Any) -> dict[str, int]:
    answer = await waiting.http.get("/graphs")
    assert answer.status_code == 200, answer.text
    return {graph["graph_id"]: graph["workers"] for graph in answer.json()}


async def _workers_until(waiting: Any, expected: dict[str, int]) -> None:
    """The gateway reads the registered graphs again every few seconds."""
    await until(lambda: _workers(waiting), f"the workers are {expected}", holds=lambda workers: workers == expected)


async def _ready_until(waiting: Any, part: str, present: bool) -> dict[str, Any]:
    async def ready() -> httpx.Response:
        answer: httpx.Response = await waiting.http.get("/ready")
        return answer

    answer = await until(
        ready,
        f"{part!r} is {'' if present else 'not '}among the warnings",
        holds=lambda answer: (part in " ".join(answer.json()["warnings"])) is present,
    )
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


async def test_a_graph_without_a_living_worker_is_known_and_said_everywhere(waiting: Any) -> None:
    await _ready_until(waiting, "No worker has registered a graph yet", present=True)
    for graph in ("served", "left"):
        await waiting.database.graphs.update_one({"_id": graph}, {"$set": {"version": "1"}}, upsert=True)
    await _lease(waiting, "one", ["served"], 600)
    await _lease(waiting, "two", ["served", "left"], 600)
    await _workers_until(waiting, {"served": 2, "left": 1})
    await _ready_until(waiting, "No", present=False)

    await _lease(
        waiting, "two", ["served", "left"], -1
    )  # killed: the lease has expired, nobody has declared it dead yet
    await _lease(waiting, "three", ["left"], 600, state="gone")
    await _workers_until(waiting, {"served": 1, "left": 0})
    body = await _ready_until(waiting, "No living worker serves graph 'left'", present=True)
    assert body["ready"] is True
    assert len(body["warnings"]) == 1
    page = (await waiting.http.get("/console")).text
    assert "<dt>left</dt>" in page
    assert page.count("no living worker") == 1
    started = await waiting.http.post("/runs", json={"assistant_id": "left", "input": {}})
    assert started.status_code == 202, started.text
