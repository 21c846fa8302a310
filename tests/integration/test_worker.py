"""A worker on real servers: no run that it owns stands still, whatever went wrong between the claim and the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from tests.integration.worker_stage import open_worker
from tests.support.polling import until

from perdure.agent_step import idle
from perdure.agent_step.claims import Claimed, Claims
from perdure.agent_step.handlers import handle
from perdure.agent_step.worker import ShuttingDown
from perdure.chassis.clock import now
from perdure.chassis.kafka.consumer import Refused
from perdure.checkpoint import PerdureSaver
from perdure.checkpoint.documents import Place
from perdure.schemas.commands import CancelRun
from perdure.schemas.envelope import Decoded, decode, encode

pytestmark = pytest.mark.alone


class State(TypedDict, total=False):
    log: list[str]
    hold: bool


class Holding:
    """Nodes that end when the test says so."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.release = asyncio.Event()
        self.release_threads = threading.Event()

    def graph(self, kind: str = "async") -> Any:
        async def node(state: State) -> State:
            self.entered.append("node")
            await self.release.wait()
            return {"log": ["done"]}

        def blocking(state: State) -> State:
            self.entered.append("node")
            self.release_threads.wait(20)
            return {"log": ["done"]}

        async def quick(state: State) -> State:
            return {}

        builder = StateGraph(State)
        if kind == "subgraph":
            builder.add_node("node", self.graph())
        else:
            builder.add_node("node", blocking if kind == "thread" else node)
        builder.add_edge(START, "node")
        builder.add_edge("node", END)
        if kind == "parallel":
            builder.add_node("beside", quick)
            builder.add_edge(START, "beside")
        return builder.compile()


class LosesReads(PerdureSaver):
    """Its store never answers the first read of a checkpoint, as a lost wake-up would have it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.lost = 0
        self.exact, self.notebook.store.exact = self.notebook.store.exact, self._exact  # type: ignore[method-assign]

    async def _exact(self, place: Place) -> Any:
        if not self.lost:
            self.lost += 1
            await asyncio.Event().wait()
        return await self.exact(place)


@pytest.fixture
async def holding() -> AsyncIterator[Holding]:
    made = Holding()
    yield made
    made.release.set()
    made.release_threads.set()


async def test_a_run_that_is_owned_and_not_executed_is_given_back(mongodb_uri: str, kafka_bootstrap: str) -> None:
    """As a claim leaves it that was applied although its caller was gone."""
    graph = Holding()
    graph.release.set()
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": graph.graph()}) as stage:
        run = await stage.run(status="running", owner="worker-1", epoch=1, claim="of-nobody")
        await stage.heartbeat()
        assert (await stage.stored(run))["status"] == "running", "one heartbeat may see a claim that is just over"
        given_back = await stage.until(run, "pending", heartbeats=True)
        assert given_back["owner"] is None
        await stage.worker.start([run["thread_id"]])
        assert (await stage.until(run, "success"))["epoch"] == 2


async def test_a_claim_that_fails_after_it_was_applied_leaves_no_run_behind(
    mongodb_uri: str, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    async def fail(*_: Any) -> Claimed:
        raise RuntimeError("after the claim")

    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": Holding().graph()}) as stage:
        run = await stage.run()
        with monkeypatch.context() as patched:
            patched.setattr(Claims, "_claimed", fail)
            with pytest.raises(RuntimeError, match="after the claim"):
                await stage.worker.start([run["thread_id"]])
        assert (await stage.stored(run))["status"] == "running"
        await stage.until(run, "pending", heartbeats=True)


async def test_a_run_whose_claim_is_under_way_is_not_given_back(
    mongodb_uri: str, kafka_bootstrap: str, holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = asyncio.Event()
    go_on = asyncio.Event()
    original = Claims._claimed

    async def slow(self: Claims, *args: Any) -> Claimed:
        reading.set()
        await go_on.wait()
        return await original(self, *args)

    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": holding.graph()}) as stage:
        monkeypatch.setattr(Claims, "_claimed", slow)
        run = await stage.run()
        starting = asyncio.create_task(stage.worker.start([run["thread_id"]]))
        await reading.wait()
        for _ in range(5):
            await stage.heartbeat()
        go_on.set()
        await starting
        holding.release.set()
        assert (await stage.until(run, "success", heartbeats=True))["epoch"] == 1


@pytest.mark.parametrize("kind", ["async", "thread", "parallel", "subgraph"])
async def test_a_run_whose_node_is_at_work_is_never_idle(
    mongodb_uri: str, kafka_bootstrap: str, holding: Holding, kind: str
) -> None:
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": holding.graph(kind)}, idle_run_s=0.3) as stage:
        run = await stage.run()
        await stage.worker.start([run["thread_id"]])
        await until(lambda: holding.entered, "the node is entered")
        for _ in range(30):
            await stage.heartbeat()
            await asyncio.sleep(0.05)
        shown = idle.stacks(run["_id"], stage.worker._owning[run["_id"]].task, asyncio.get_running_loop())
        assert ("run_in_executor" if kind == "thread" else "in node") in shown
        holding.release.set()
        holding.release_threads.set()
        ended = await stage.until(run, "success", heartbeats=True)
        assert (ended["epoch"], ended.get("crashes", 0)) == (1, 0)


async def test_a_run_that_stands_still_outside_its_nodes_is_told_of_and_given_back(
    mongodb_uri: str, kafka_bootstrap: str, holding: Holding
) -> None:
    """Its second owner waits for a checkpoint that is never read; no node runs."""
    savers: list[LosesReads] = []

    def saver(db: Any) -> LosesReads:
        savers.append(LosesReads(db))
        return savers[0]

    graph = holding.graph()
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": graph}, saver, idle_run_s=0.4) as stage:
        first = await stage.run()
        holding.release.set()
        await stage.worker.start([first["thread_id"]])
        await stage.until(first, "success")
        second = await stage.run(thread_id=first["thread_id"], new_thread=False)
        await stage.worker.start([first["thread_id"]])
        given_back = await stage.until(second, "pending", heartbeats=True)
        assert savers[0].lost == 1
        assert "none of its nodes was at work" in given_back["crash_log"][-1]["error"]
        await stage.worker.start([first["thread_id"]])
        assert (await stage.until(second, "success"))["epoch"] == 2


async def test_a_lease_that_is_lost_between_claim_and_execution_runs_no_node(
    mongodb_uri: str, kafka_bootstrap: str, holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    beginning, go_on = asyncio.Event(), asyncio.Event()
    original = PerdureSaver.fence

    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": holding.graph()}) as stage:

        async def slow(self: PerdureSaver, *args: Any) -> int:
            beginning.set()
            await go_on.wait()
            return await original(self, *args)

        monkeypatch.setattr(PerdureSaver, "fence", slow)
        run = await stage.run(epoch=1, new_thread=False)
        await stage.worker.start([run["thread_id"]])
        await beginning.wait()
        stage.worker.lose_everything()
        stage.incarnation[0] = "worker-2"
        stage.worker.resume()
        go_on.set()
        await stage.until(run, "pending")
        assert holding.entered == [], "a node ran for an owner that had lost its lease"


@pytest.mark.parametrize("changed", [{"tenant": "eve"}, {"thread_id": "another"}], ids=str)
async def test_a_command_of_another_tenant_or_thread_stops_no_run(
    mongodb_uri: str, kafka_bootstrap: str, holding: Holding, changed: dict[str, str]
) -> None:
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": holding.graph()}) as stage:
        run = await stage.run()
        await stage.worker.start([run["thread_id"]])
        await until(lambda: holding.entered, "the node runs")
        told = {"tenant": "default", "thread_id": run["thread_id"], "run_id": run["_id"]}
        await stage.db.runs.update_one({"_id": run["_id"]}, {"$set": {"cancel_requested_at": now()}})
        forged, good = (commanded(CancelRun(**named)) for named in (told | changed, told))
        with pytest.raises(Refused) as refused:
            await handle(stage.worker, [good, forged])
        assert refused.value.records == (forged,)
        assert (await stage.stored(run))["status"] == "running"
        await handle(stage.worker, [good])
        await stage.until(run, "cancelled")


def commanded(command: CancelRun) -> Decoded:
    record = encode(command, id="1", source="test", correlation_id=command.run_id, time=now())
    return decode(record.headers, record.value, {(CancelRun.TYPE, CancelRun.VERSION): CancelRun})


async def test_what_a_claim_under_way_wins_is_handed_over_as_well(
    mongodb_uri: str, kafka_bootstrap: str, holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is told to stop while its claim is on the way."""
    taking, go_on = asyncio.Event(), asyncio.Event()
    original = Claims._take

    async def slow(self: Claims, *args: Any) -> Any:
        taking.set()
        await go_on.wait()
        return await original(self, *args)

    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": holding.graph()}) as stage:
        monkeypatch.setattr(Claims, "_take", slow)
        run = await stage.run()
        starting = asyncio.create_task(stage.worker.start([run["thread_id"]]))
        await taking.wait()
        draining = asyncio.create_task(stage.worker.drain(3))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(starting, draining)
        found = await stage.stored(run)
        assert (found["status"], found["owner"]) == ("pending", None), (
            "it would be left to the recovery of dead workers"
        )
        with pytest.raises(ShuttingDown):
            await stage.worker.start([run["thread_id"]])


async def test_a_run_of_a_graph_that_is_not_served_is_left_to_those_that_serve_it(
    mongodb_uri: str, kafka_bootstrap: str, holding: Holding
) -> None:
    holding.release.set()
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": holding.graph()}) as stage:
        other = await stage.run("another")
        own = await stage.run()
        await stage.worker.start([other["thread_id"], own["thread_id"]])
        await stage.until(own, "success")
        found = await stage.stored(other)
        assert (found["status"], found["epoch"], found["unserved"]) == ("pending", 0, True)
        await stage.worker.take_unserved()
        assert (await stage.stored(other))["status"] == "pending"
        left = await stage.run(unserved=True)
        await stage.worker.take_unserved()
        assert "unserved" not in await stage.until(left, "success")


async def test_a_run_of_a_graph_that_is_not_served_can_be_cancelled(
    mongodb_uri: str, kafka_bootstrap: str, holding: Holding
) -> None:
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": holding.graph()}) as stage:
        run = await stage.run("another")
        await stage.worker.start([run["thread_id"]])
        assert (await stage.stored(run))["unserved"]
        await stage.db.runs.update_one({"_id": run["_id"]}, {"$set": {"cancel_requested_at": run["created_at"]}})
        await stage.worker.start(stage.worker.cancel([run["_id"]]) and [run["thread_id"]])
        assert (await stage.until(run, "cancelled"))["error"] is None
