"""LangGraph as a library: graphs run in the driver's process, ``durability="sync"``, with a checkpointer that the peer gives.

Contract: the graphs are those that Perdure serves (``benchmarks/graphs``). Agents are spread over as many checkpointers as the peer
gives. Whoever resumes an agent runs its graph: there is no start by HTTP, no queue, and nobody takes over after a crash.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import approve
import chain
import chat
import fanout
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command
from payload import STEPS, first_message

from harness.system import System

_BUILDERS = {
    "chain": chain.chain_builder,
    "short": chain.short_builder,
    "approve": approve.builder,
    "chat": chat.builder,
    "fanout": fanout.builder,
}


class LangGraphSystem(System):
    """The workloads; a peer adds ``open``, ``close`` and the store's numbers."""

    reasons: ClassVar[dict[str, str]] = {
        "timers": "LangGraph alone has no durable timer",
        "chain-64k-message": "a channel is stored whole: see chain-64k",
    }
    persists = "the whole changed channel (the message list) and its pending writes"

    def use(self, savers: list[BaseCheckpointSaver[Any]]) -> None:
        """Compile every graph with each of them."""
        self._graphs = [{name: one.compile(checkpointer=saver) for name, one in _BUILDERS.items()} for saver in savers]
        self._parked = 0

    async def _run(self, key: str, name: str, given: Any) -> dict[str, Any]:
        graph = self._graphs[hash(key) % len(self._graphs)][name]
        config: Any = {"configurable": {"thread_id": key}, "recursion_limit": 10_000}
        return dict(await graph.ainvoke(given, config, durability="sync"))

    async def chain(self, key: str, state_bytes: int) -> None:
        state = await self._run(key, "chain", {"messages": [first_message(state_bytes)]})
        assert len(state["messages"]) == 1 + STEPS

    async def short(self, key: str) -> None:
        state = await self._run(key, "short", {"messages": [first_message(1024)]})
        assert len(state["messages"]) == 2

    async def park(self, key: str) -> None:
        state = await self._run(key, "approve", {"messages": [first_message(1024)]})
        assert "__interrupt__" in state
        self._parked += 1

    async def parked(self) -> int:
        return self._parked

    async def resume(self, key: str) -> None:
        asked = time.time()
        state = await self._run(key, "approve", Command(resume="yes"))
        assert state["messages"][-1]["answer"] == "yes"
        self.back_s.append(state["messages"][-1]["at"] - asked)

    async def talk(self, key: str, until: int) -> None:
        state = await self._run(key, "chat", {"until": until})
        assert len(state["messages"]) == until

    async def recall(self, key: str) -> int:
        graph = self._graphs[hash(key) % len(self._graphs)]["chat"]
        state = await graph.aget_state({"configurable": {"thread_id": key}})
        return len(state.values["messages"])

    async def fan_out(self, key: str, width: int) -> None:
        state = await self._run(key, "fanout", {"width": width})
        assert state["joined"] == width
