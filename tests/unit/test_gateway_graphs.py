"""The gateway's cache of graphs: what was registered before a request came is known to it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.stores import graphs
from perdure.gateway.stores.graphs import ServedGraphs
from perdure.schemas.documents import GraphDocument


class Collection:
    """Graphs, read as slowly as the test wants."""

    def __init__(self) -> None:
        self.graphs: list[str] = []
        self.reads = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def fetch(self) -> list[GraphDocument]:
        self.reads += 1
        found: list[Any] = [{"_id": name} for name in self.graphs]
        await self.goes_on.wait()
        return cast("list[GraphDocument]", found)


async def test_a_graph_that_was_registered_right_after_a_reading_is_found() -> None:
    collection = Collection()
    known = ServedGraphs(collection.fetch, 60)
    assert await known.all() == []
    collection.graphs.append("agent")
    assert (await known.resolve("agent"))["_id"] == "agent"


async def test_a_reading_that_had_begun_before_says_nothing_about_later() -> None:
    collection = Collection()
    known = ServedGraphs(collection.fetch, 60)
    collection.goes_on.clear()
    early = asyncio.create_task(known.all())
    while not collection.reads:
        await asyncio.sleep(0)
    collection.graphs.append("agent")
    late = asyncio.create_task(known.resolve("agent"))
    await asyncio.sleep(0)
    collection.goes_on.set()
    assert await early == []
    assert (await late)["_id"] == "agent"


async def test_those_who_ask_for_what_is_unknown_share_few_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MISS_INTERVAL_S", 0.05)
    collection = Collection()
    collection.graphs.append("agent")
    known = ServedGraphs(collection.fetch, 60)
    answers = await asyncio.gather(*(known.resolve("other") for _ in range(50)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {RequestProblem}
    assert collection.reads == 1
    with pytest.raises(RequestProblem, match="agent"):
        await known.resolve("other")
    assert collection.reads == 2


async def test_a_failed_reading_is_told_to_those_who_wait_and_the_next_one_succeeds() -> None:
    answers: list[Any] = [RequestProblem("store-unavailable", "no"), [{"_id": "agent"}]]

    async def fetch() -> list[GraphDocument]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return cast("list[GraphDocument]", answer)

    known = ServedGraphs(fetch, 60)
    with pytest.raises(RequestProblem, match="no"):
        await known.resolve("agent")
    assert (await known.resolve("agent"))["_id"] == "agent"


async def test_a_graph_whose_handlers_the_gateway_does_not_ask_is_not_started() -> None:
    async def fetch() -> list[Any]:
        return [{"_id": "guarded", "asks_handlers": True}, {"_id": "open"}]

    without, asking = ServedGraphs(fetch, 5.0, asks_handlers=False), ServedGraphs(fetch, 5.0)
    assert (await without.resolve("open"))["_id"] == "open"
    assert (await asking.resolve("guarded"))["_id"] == "guarded"
    with pytest.raises(RequestProblem, match="PERDURE_LANGGRAPH_CONFIG") as refused:
        await without.resolve("guarded")
    assert refused.value.status == 503
