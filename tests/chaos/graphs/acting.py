"""Graphs that act in the world (``tests/chaos/world.py``) through the effect ledger.

* ``post``: an effect without a guard; after a crash it is tried again with the same key.
* ``buy``: validates a price, then buys under that verdict; ``reconcile`` asks the world what became of an attempt.
* ``stale``: believes a price that is not true any more, is told so, and tries to buy all the same: the ledger must refuse.
* ``approve``: asks a person, then acts under the approval.
"""

from __future__ import annotations

import asyncio
import itertools
import operator
import os
from datetime import timedelta
from typing import Annotated, Any, Literal, TypedDict

import aiohttp
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from perdure.sdk import (
    Answered,
    Done,
    GuardError,
    GuardExpired,
    NotDone,
    VerdictOutcome,
    ask_human,
    effect,
    final_validation,
    http,
    premise,
)

WORLD = os.environ.get("CHAOS_WORLD_URL", "http://127.0.0.1:1")
ATTEMPT = timedelta(seconds=30)
"""Longer than the longest pause of a process: a frozen attempt is not overtaken."""
SCHEMA = {"type": "object", "properties": {"approved": {"type": "boolean"}}, "required": ["approved"]}


class State(TypedDict, total=False):
    n: int
    pause_s: float
    verdict_id: str | None
    approval_id: str | None
    log: Annotated[list[str], operator.add]


async def _act(key: str, pause_s: float) -> Any:
    """Do it, and be slow before and after."""
    thread, _, name = key.partition(":")
    await asyncio.sleep(pause_s)
    given = {"key": key, "thread": thread, "effect": name}
    async with aiohttp.ClientSession() as session, session.post(f"{WORLD}/effects", json=given) as answer:
        answer.raise_for_status()
        receipt = await answer.json()
    await asyncio.sleep(pause_s)
    return receipt["receipt"]


async def _find(key: str) -> Done | NotDone:
    async with aiohttp.ClientSession() as session, session.get(f"{WORLD}/effects/{key}") as answer:
        return Done((await answer.json())["receipt"]) if answer.status == 200 else NotDone()


async def posts(state: State) -> dict[str, Any]:
    receipt = await effect(
        "post", lambda key: _act(key, state["pause_s"]), action={"post": state["n"]}, timeout=ATTEMPT
    )
    return {"log": ["posted" if receipt else "no receipt"]}


def validate(state: State) -> Command[Literal["validate", "buys"]]:
    verdict = final_validation(
        [premise("price", http(f"{WORLD}/price/steady", "/price"), believed=10)], action={"buy": state["n"]}
    )
    goto: Literal["validate", "buys"] = "buys" if verdict.proceed else "validate"
    return Command(goto=goto, update={"verdict_id": verdict.verdict_id})


async def buys(state: State) -> Command[Literal["validate", "__end__"]]:
    try:
        receipt = await effect(
            "buy",
            lambda key: _act(key, state["pause_s"]),
            action={"buy": state["n"]},
            verdict=state["verdict_id"],
            reconcile=_find,
            on_unknown="retry",
            timeout=ATTEMPT,
        )
    except GuardExpired:
        return Command(goto="validate")
    return Command(goto=END, update={"log": ["bought" if receipt else "no receipt"]})


def believes(state: State) -> Command[Literal["believes", "tries"]]:
    verdict = final_validation(
        [premise("price", http(f"{WORLD}/price/moved", "/price"), believed=10)], action={"buy": state["n"]}
    )
    if verdict.outcome is VerdictOutcome.UNKNOWN:
        return Command(goto="believes")
    return Command(goto="tries", update={"log": [verdict.outcome.value], "verdict_id": verdict.verdict_id})


async def tries(state: State) -> dict[str, Any]:
    try:
        await effect(
            "buy",
            lambda key: _act(key, 0),
            action={"buy": state["n"]},
            verdict=state["verdict_id"],
            timeout=ATTEMPT,
        )
    except GuardError:
        return {"log": ["refused"]}
    return {"log": ["bought"]}


def asks(state: State) -> dict[str, Any]:
    answer = ask_human("May I?", SCHEMA, action={"pay": state["n"]})
    return {"approval_id": answer.approval_id if isinstance(answer, Answered) else None, "log": ["asked"]}


async def pays(state: State) -> dict[str, Any]:
    receipt = await effect(
        "pay",
        lambda key: _act(key, state["pause_s"]),
        action={"pay": state["n"]},
        approval=state["approval_id"],
        reconcile=_find,
        on_unknown="retry",
        timeout=ATTEMPT,
    )
    return {"log": ["paid" if receipt else "no receipt"]}


def _chain(*nodes: tuple[str, Any], edges: bool = True) -> Any:
    builder = StateGraph(State)
    for name, node in nodes:
        builder.add_node(name, node)
    builder.add_edge(START, nodes[0][0])
    if edges:
        for (before, _), (after, _) in itertools.pairwise(nodes):
            builder.add_edge(before, after)
        builder.add_edge(nodes[-1][0], END)
    return builder.compile()


post = _chain(("posts", posts))
buy = _chain(("validate", validate), ("buys", buys), edges=False)
stale = _chain(("believes", believes), ("tries", tries), edges=False)
approve = _chain(("asks", asks), ("pays", pays))
