"""An agent that buys at most once, and never at a price that it only believes in.

observe -> analyse -> (a large order: approve) -> validate -> buy, or -> refuse -> (a person says yes: validate again) -> ...

Input: ``symbol``; ``budget``; any of ``believed`` (the price that it takes for true; default: what the quote server says now),
``think_s`` (seconds that it sleeps over its decision; default 0), ``approval_above`` (an order that costs more needs a person;
default 50,000), ``verdict_s`` (seconds that a validation may be acted on; default 30) and ``slip`` (a bug on demand: the quantity
is multiplied by it after a person has approved the order; default 1).
"""

from __future__ import annotations

import operator
from datetime import timedelta
from typing import Annotated, Any, Literal, TypedDict

import market
from analysis import amount, analyse, order
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from perdure.sdk import (
    Answered,
    GuardExpired,
    VerdictOutcome,
    ask_human,
    effect,
    equal,
    final_validation,
    http,
    premise,
    relative,
    sleep_for,
)

TOLERANCE = 0.02
"""A price that moved by more than two per cent is another world."""
APPROVAL_ABOVE = 50_000
ORDER_TIMEOUT = timedelta(seconds=30)
ANSWER = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
}


class Input(TypedDict, total=False):
    """What a client may say."""

    symbol: str
    budget: float
    believed: float
    think_s: float
    approval_above: float
    verdict_s: float
    slip: int


class Trade(Input, total=False):
    """The state."""

    findings: dict[str, float]
    order: dict[str, Any]
    approval_id: str | None
    """Of the approval of ``order``; absent where none is needed."""
    verdict_id: str | None
    outcome: str
    """Of the last validation."""
    reason: str
    fresh: float | None
    """The price that it read."""
    receipt: dict[str, Any]
    log: Annotated[list[str], operator.add]


async def observe(state: Trade) -> dict[str, Any]:
    """Take the price for true: the one that was given, or the live one."""
    believed = state.get("believed") or (await market.quote(state["symbol"]))["price"]
    return {"believed": believed, "log": [f"believes that {state['symbol']} costs {believed}"]}


async def study(state: Trade) -> Command[Literal["approve", "validate", "__end__"]]:
    """Compute an order from the past closes and the believed price."""
    findings = analyse(await market.closes(state["symbol"]))
    wanted = order(state["symbol"], state["believed"], state["budget"], findings.fraction)
    update = {"findings": findings.as_dict(), "order": wanted, "log": [f"wants {_text(wanted)}"]}
    if wanted["quantity"] < 1:
        return Command(goto=END, update=update | {"log": ["has nothing to buy"]})
    large = amount(wanted) > state.get("approval_above", APPROVAL_ABOVE)
    return Command(goto="approve" if large else "validate", update=update)


def approve(state: Trade) -> Command[Literal["validate", "__end__"]]:
    """A large order needs a person."""
    wanted = state["order"]
    answer = ask_human(f"May I buy {_text(wanted)}?", ANSWER, details=state["findings"], action=wanted)
    if not _is_yes(answer):
        return Command(goto=END, update={"log": ["was not allowed to"]})
    slipped = wanted | {"quantity": wanted["quantity"] * state.get("slip", 1)}
    update = {"order": slipped, "approval_id": answer.approval_id, "log": [f"may buy {_text(wanted)}"]}
    return Command(goto="validate", update=update)


def validate(state: Trade) -> Command[Literal["buy", "refuse"]]:
    """Look at the world once more, right before the act."""
    if state.get("think_s") and "outcome" not in state:
        sleep_for(timedelta(seconds=state["think_s"]))
    url = market.quote_url(state["symbol"])
    verdict = final_validation(
        [
            premise("price", http(url, "/price"), believed=state["believed"], rule=relative(TOLERANCE)),
            premise("market is open", http(url, "/open"), believed=True, rule=equal()),
        ],
        action=state["order"],
        expires=timedelta(seconds=state.get("verdict_s", 30)),
    )
    fresh = next((finding.fresh for finding in verdict.findings if finding.name == "price"), None)
    update = {
        "outcome": verdict.outcome.value,
        "reason": verdict.reason,
        "verdict_id": verdict.verdict_id,
        "fresh": fresh,
        "log": [f"looked again: {verdict.outcome} ({verdict.reason})"],
    }
    return Command(goto="buy" if verdict.outcome is VerdictOutcome.PROCEED else "refuse", update=update)


async def buy(state: Trade) -> Command[Literal["validate", "__end__"]]:
    """Buy, once. Where nobody was asked, the verdict is enough; else the approval is needed too."""
    wanted = state["order"]
    approval = {"approval": state["approval_id"]} if "approval_id" in state else {}
    try:
        receipt = await effect(
            "buy",
            lambda key: market.buy(wanted, client_order_id=key),
            action=wanted,
            verdict=state["verdict_id"],
            reconcile=market.find_order,
            timeout=ORDER_TIMEOUT,
            **approval,
        )
    except GuardExpired as expired:
        # Nothing was bought, and what was validated may not be true any more.
        return Command(goto="validate", update={"log": [f"was too late: {expired}"]})
    return Command(goto=END, update={"receipt": receipt, "log": [f"bought {_text(wanted)}: {receipt['order_id']}"]})


def refuse(state: Trade) -> Command[Literal["validate", "__end__"]]:
    """The world is another one: nothing is bought, and a person decides what to do in it."""
    fresh = state.get("fresh") or state["believed"]
    wanted = order(state["symbol"], fresh, state["budget"], state["findings"]["fraction"])
    question = f"I did not buy {_text(state['order'])}: {state['reason']}. Shall I buy {_text(wanted)} instead?"
    details = {"believed": state["believed"], "fresh": state.get("fresh"), "outcome": state["outcome"]}
    answer = ask_human(question, ANSWER, details=details, action=wanted)
    if not _is_yes(answer):
        return Command(goto=END, update={"log": ["gave up"]})
    update = {
        "believed": fresh,
        "order": wanted,
        "approval_id": answer.approval_id,
        "log": [f"may buy {_text(wanted)}"],
    }
    return Command(goto="validate", update=update)


def _is_yes(answer: Any) -> bool:
    """Only decides the way; whether an approval counts is the ledger's to say."""
    return isinstance(answer, Answered) and isinstance(answer.value, dict) and answer.value.get("approved") is True


def _text(wanted: dict[str, Any]) -> str:
    return f"{wanted['quantity']} {wanted['symbol']} at {wanted['limit']} or less"


builder = StateGraph(Trade, input_schema=Input)
builder.add_node("observe", observe)
builder.add_node("study", study)
builder.add_node("approve", approve)
builder.add_node("validate", validate)
builder.add_node("buy", buy)
builder.add_node("refuse", refuse)
builder.add_edge(START, "observe")
builder.add_edge("observe", "study")
graph = builder.compile()
