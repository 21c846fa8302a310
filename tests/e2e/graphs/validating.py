"""A graph that looks at the world before it acts, and the fetchers that are its world.

``{"file": path, "kind": "price"}``: believes a price of 10 and goes where the verdict leads: ``act``, ``refuse``, ``blind`` or
``ask``. ``kind`` also is ``held`` (the answer waits until ``<file>.go`` exists), ``query`` (a connection that is not configured).
"""

from __future__ import annotations

import asyncio
import json
import operator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph

from perdure.sdk import VerdictOutcome, fetcher, final_validation, mongodb, premise, relative

GO_WAIT_S = 0.05


class State(TypedDict, total=False):
    file: str
    kind: str
    on_violation: str
    timeout_s: float
    outcome: str
    log: Annotated[list[Any], operator.add]


def price(file: str) -> Any:
    """What the file says; an error when it is not there."""
    return json.loads(Path(file).read_text())


async def held(file: str) -> Any:
    """As ``price``, but only once ``<file>.go`` exists; says in ``<file>.asked`` that it was asked."""
    with Path(f"{file}.asked").open("a") as asked:
        asked.write("x")
    while not Path(f"{file}.go").exists():
        await asyncio.sleep(GO_WAIT_S)
    return price(file)


def decide(state: State) -> State:
    kind = state.get("kind", "price")
    place = (
        mongodb("nowhere", "orders", {"at": {"$gt": 1}, "a.b": {"$in": [None]}}, "/price")
        if kind == "query"
        else fetcher(kind, "/price", file=state["file"])
    )
    known = premise(
        "price",
        place,
        believed=10,
        rule=relative(0.01),
        attempts=2,
        timeout=timedelta(seconds=60),
        on_violation="ask" if state.get("on_violation") == "ask" else "refuse",
    )
    verdict = final_validation([known], {"buy": 1}, timeout=timedelta(seconds=state.get("timeout_s", 120)))
    fresh = verdict["price"].fresh if verdict.findings else None
    return {
        "outcome": verdict.outcome.value,
        "log": [[verdict.outcome.value, fresh, verdict.verdict_id, verdict.reason]],
    }


def note(word: str) -> Any:
    def node(state: State) -> State:
        return {"log": [word]}

    return node


WAYS = {
    VerdictOutcome.PROCEED.value: "act",
    VerdictOutcome.STALE.value: "refuse",
    VerdictOutcome.UNKNOWN.value: "blind",
    VerdictOutcome.ASK.value: "ask",
}

_builder = StateGraph(State)
_builder.add_node("decide", decide)
_builder.add_edge(START, "decide")
for way in WAYS.values():
    _builder.add_node(way, note(way))
    _builder.add_edge(way, END)
_builder.add_conditional_edges("decide", lambda state: state["outcome"], WAYS)  # type: ignore[arg-type,return-value]
graph = _builder.compile()
