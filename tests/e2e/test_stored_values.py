"""What a worker makes of stored values: the types of a graph's state live again, and nothing else is constructed or called."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde.jsonplus import EXT_CONSTRUCTOR_SINGLE_ARG, JsonPlusSerializer

from perdure.chassis import mongo
from perdure.checkpoint import PerdureSaver

NAMES = ("gateway", "agent_step", "scheduler")


def test_types_that_a_state_names_survive_another_worker(start_system: Any) -> None:
    system = start_system(names=NAMES)
    worker = system.services["agent_step"]
    run = system.start("typed", {})
    thread = run["thread_id"]
    for _ in range(2):  # at the interrupt, and at the one inside the subgraph
        (ended,) = system.until_ended(run)
        assert ended["status"] == "interrupted", ended.get("error")
        worker.restart()
        run = system.start("typed", thread=thread, command={"resume": True})
    (ended,) = system.until_ended(run)
    assert ended["status"] == "success", ended.get("error")
    values = system.values(thread)
    assert values["inside"] == "Order"
    assert values["seen"] == [
        "Point Order Point Colour HumanMessage AIMessage",
        "sent Order",
        "Order",
        "Point",
    ]


class Forger(JsonPlusSerializer):
    """Writes a call of a function in place of every text ``FORGED``."""

    def __init__(self, call: list[str]) -> None:
        super().__init__()
        self._call = ormsgpack.packb(ormsgpack.Ext(EXT_CONSTRUCTOR_SINGLE_ARG, ormsgpack.packb(call)))

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        return ("msgpack", self._call) if obj == "FORGED" else super().dumps_typed(obj)


def test_a_forged_checkpoint_calls_nothing(start_system: Any, tmp_path: Path) -> None:
    """Somebody who can write to the database names a function in place of a value."""
    system = start_system(names=NAMES)
    run = system.start("chain", {"n": 2})
    system.until_ended(run)
    called = tmp_path / "called"
    forger = Forger(["os", "mkdir", str(called)])
    asyncio.run(forge(system, run["thread_id"], forger))
    following = system.start("chain", {"n": 4}, thread=run["thread_id"])
    system.until_ended(following)
    assert not called.exists(), "a checkpoint made the worker call a function"
    assert forger.loads_typed(forger.dumps_typed("FORGED")) is None
    assert called.exists(), "the forged value is no call: this test shows nothing"


async def forge(system: Any, thread: str, forger: Forger) -> None:
    """Put the forged value into the newest checkpoint."""
    uri = f"mongodb://{system.mongo.address[0]}:{system.mongo.address[1]}"
    client = mongo.connect(uri)
    saver = PerdureSaver(client[system.db.name], serde=forger)
    newest = await saver.aget_tuple({"configurable": {"thread_id": thread}})
    assert newest is not None
    checkpoint = newest.checkpoint
    checkpoint["channel_values"]["log"] = "FORGED"
    config: Any = newest.parent_config or {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    versions = dict(checkpoint["channel_versions"])
    await saver.aput(config, checkpoint, newest.metadata, versions)

    await saver.aclose()
    client.close()
