"""The notebook alone: durable supersteps a second and CPU a step of one process, and the bytes that a step stores.

``python benchmarks/notebook.py --uri mongodb://... [steps|chat|null|all]``: agents are ordinary LangGraph graphs in one
process on uvloop, at most ``--open`` at once, ``durability="sync"``, each with a run scope as the executor gives it.
``null`` is LangGraph without a checkpointer. One JSON line a workload, each in a database of its own, dropped at its
end. No HTTP, no Kafka, no index.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import operator
import os
import resource
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import bson
import uvloop
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from perdure.chassis import mongo
from perdure.checkpoint import SCOPE_KEY, PerdureSaver, RunScope

STEPS = 5


class State(TypedDict):
    """A chat-like list that every step appends to."""

    messages: Annotated[list[Any], operator.add]
    step: int


def text(size: int) -> str:
    """Text of ``size`` characters that does not compress to nothing."""
    return os.urandom(size // 2).hex()[:size]


def build(saver: PerdureSaver | None, message: Callable[[], Any]) -> CompiledStateGraph[State]:
    """A chain of five nodes, each of which appends one message."""
    builder = StateGraph(State)
    names = [f"step_{number}" for number in range(STEPS)]

    async def node(state: State) -> dict[str, Any]:
        return {"messages": [message()], "step": state["step"] + 1}

    for name in names:
        builder.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return builder.compile(checkpointer=saver)


async def stored_bytes(saver: PerdureSaver) -> tuple[int, int]:
    """Bytes and documents in the collection."""
    total = count = 0
    async for document in saver.notebook.store.collection.find({}):
        total += len(bson.encode(document))
        count += 1
    return total, count


async def steps(uri: str, *, agents: int, opened: int, state_bytes: int, null: bool = False) -> dict[str, Any]:
    """Many agents with five supersteps each."""
    client = mongo.connect(uri)
    database = client[f"bench_{uuid4().hex[:8]}"]
    saver = PerdureSaver(database)
    await saver.ensure_indexes()
    size = max(state_bytes // STEPS, 16)
    samples = [text(size) for _ in range(64)]
    turn = iter(range(10**9))
    graph = build(None if null else saver, lambda: {"role": "user", "content": samples[next(turn) % 64]})
    gate = asyncio.Semaphore(opened)
    durable = 0
    latencies: list[float] = []

    def on_durable(_: Any) -> None:
        nonlocal durable
        durable += 1

    async def run(number: int) -> None:
        async with gate:
            began = time.perf_counter()
            scope = RunScope(f"t{number}", f"r{number}", 1, 1, new_thread=True, describe=_event, on_durable=on_durable)
            config = {"configurable": {"thread_id": scope.thread_id, SCOPE_KEY: scope}}
            await graph.ainvoke({"messages": [], "step": 0}, config, durability=None if null else "sync")
            scope.close()
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(run(number + 10**6) for number in range(min(agents, 50))))  # warm-up
    durable = 0
    latencies.clear()
    before, cpu, commits = time.perf_counter(), cpu_s(), saver.notebook.commit.statistics.commits
    await asyncio.gather(*(run(number) for number in range(agents)))
    elapsed, spent = time.perf_counter() - before, cpu_s() - cpu
    total, documents = await stored_bytes(saver)
    latencies.sort()
    result = {
        "workload": "notebook-steps" if not null else "langgraph-alone",
        "agents": agents,
        "open": opened,
        "state_bytes": state_bytes,
        "steps_per_s": round(agents * STEPS / elapsed),
        "cpu_ms_per_step": round(spent / (agents * STEPS) * 1000, 3),
        "checkpoints": durable,
        "commits": saver.notebook.commit.statistics.commits - commits,
        "documents": documents,
        "bytes_per_step": round(total / ((agents + min(agents, 50)) * STEPS)),
        "run_p50_ms": round(latencies[len(latencies) // 2] * 1000),
        "run_p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1000),
    }
    await client.drop_database(database.name)
    await saver.aclose()
    client.close()
    return result


def _event(_ns: str, checkpoint: Any, metadata: Any, _config: Any) -> dict[str, Any]:
    return {
        "source": metadata["source"],
        "nodes": [],
        "next": [],
        "channels": list(checkpoint["updated_channels"] or ()),
        "text": "",
        "text_truncated": False,
    }


async def chat(uri: str, *, kind: str, history: int, message_bytes: int, appends: int) -> dict[str, Any]:
    """One agent whose history has ``history`` bytes: cost of one more message of ``message_bytes``."""
    client = mongo.connect(uri)
    database = client[f"bench_{uuid4().hex[:8]}"]
    saver = PerdureSaver(database)
    await saver.ensure_indexes()
    make = MESSAGES[kind]
    graph = build(saver, lambda: make(text(message_bytes)))
    scope = RunScope("chat", "run", 1, 1, new_thread=True, describe=_event)
    config: Any = {"configurable": {"thread_id": "chat", SCOPE_KEY: scope}}
    first = [make(text(message_bytes)) for _ in range(history // message_bytes)]
    await graph.ainvoke({"messages": first, "step": 0}, config, durability="sync")
    size, _ = await stored_bytes(saver)
    before, cpu = time.perf_counter(), cpu_s()
    for _ in range(appends // STEPS):
        await graph.ainvoke({"messages": [], "step": 0}, config, durability="sync")
    elapsed, spent = time.perf_counter() - before, cpu_s() - cpu
    grown, _ = await stored_bytes(saver)
    done = appends // STEPS * STEPS
    per_step = (grown - size) / done
    result = {
        "workload": f"notebook-chat-{kind}",
        "state_bytes": history,
        "message_bytes": message_bytes,
        "steps_per_s": round(done / elapsed),
        "cpu_ms_per_step": round(spent / done * 1000, 2),
        "bytes_per_step": round(per_step),
        "share_of_state": round(per_step / history, 5),
    }
    scope.close()
    await client.drop_database(database.name)
    await saver.aclose()
    client.close()
    return result


def _human(content: str) -> Any:
    from langchain_core.messages import HumanMessage

    return HumanMessage(content, id=str(uuid4()))


MESSAGES: dict[str, Callable[[str], Any]] = {
    "text": lambda content: content,
    "dict": lambda content: {"role": "user", "content": content},
    "message": _human,
}


def cpu_s() -> float:
    """CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="all", choices=["steps", "chat", "all", "null"])
    parser.add_argument("--uri", default=os.environ.get("PERDURE_MONGODB_URI", "mongodb://127.0.0.1:27217/perdure"))
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--open", type=int, default=200)
    arguments = parser.parse_args()
    uri, agents, opened = arguments.uri, arguments.agents, arguments.open
    if arguments.what == "null":
        report(steps(uri, agents=agents, opened=opened, state_bytes=1024, null=True))
    if arguments.what in {"steps", "all"}:
        report(steps(uri, agents=agents, opened=opened, state_bytes=1024))
        report(steps(uri, agents=agents // 2, opened=opened, state_bytes=65536))
    if arguments.what in {"chat", "all"}:
        for kind in MESSAGES:
            report(chat(uri, kind=kind, history=2 << 20, message_bytes=1024, appends=100))


def report(workload: Coroutine[Any, Any, dict[str, Any]]) -> None:
    """Run a workload on a fresh uvloop and print its line."""
    print(json.dumps(uvloop.run(workload)))


if __name__ == "__main__":
    main()
