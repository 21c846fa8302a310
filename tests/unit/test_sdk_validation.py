"""``final_validation`` without a server: what is asked for, what is refused, and that only a verdict on this very action passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from perdure.schemas import validation as wire
from perdure.schemas.waits import OutcomeKind, WaitKind, WaitOutcome, digest, wait_of
from perdure.sdk import (
    Premise,
    Verdict,
    VerdictOutcome,
    WaitError,
    absolute,
    between,
    equal,
    fetcher,
    final_validation,
    fingerprint,
    http,
    mongodb,
    newer_than,
    opensearch,
    premise,
    relative,
    unchanged,
)

ACTION = {"buy": "ACME", "shares": 100}
NOW = datetime.now(UTC)
PRICE = premise("price", http("http://quotes/ACME", "/price"), believed=10, rule=relative(0.01))


class State(TypedDict, total=False):
    verdict: Any
    action: Any


def asked(*premises: Premise, action: Any = ACTION, **more: Any) -> tuple[Any, Callable[..., Verdict]]:
    """The interrupt's value, and how to resume it: ``resume(value, action=None)`` gives the node's verdict."""
    actions = [action]

    def node(state: State) -> State:
        return {"verdict": final_validation(premises, actions[-1], **more)}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    (interrupt,) = graph.invoke({"action": 1}, config)["__interrupt__"]

    def resume(value: Any, action: Any = None) -> Verdict:
        if action is not None:
            actions.append(action)
        found: Verdict = graph.invoke(Command(resume=value), config)["verdict"]
        return found

    return interrupt.value, resume


def outcome(kind: OutcomeKind = OutcomeKind.VERDICT, verdict: wire.VerdictOutcome = VerdictOutcome.PROCEED) -> Any:
    finding = wire.Finding(name="price", holds=None, reason="because", read_at=NOW, outcome=verdict)
    payload = wire.Verdict(
        outcome=verdict, findings=(finding,), action_digest=digest(ACTION), read_at=NOW, expires_at=NOW
    )
    return WaitOutcome(kind=kind, wait_id="t:i", at=NOW, payload=payload.model_dump(mode="json")).value()


def test_it_is_a_wait_with_a_deadline_and_the_premises() -> None:
    value, _ = asked(PRICE, timeout=timedelta(seconds=7), expires=timedelta(seconds=5))
    wait = wait_of(value)
    assert wait is not None
    assert wait.validation is not None
    assert wait.due_at is not None
    assert wait.kind is WaitKind.VALIDATION
    assert wait.validation.premises == (PRICE,)
    assert wait.validation.action_digest == digest(ACTION)
    assert wait.validation.verdict_expires_s == 5
    assert abs(wait.due_at - datetime.now(UTC) - timedelta(seconds=7)) < timedelta(seconds=5)


@pytest.mark.parametrize("given", list(VerdictOutcome))
def test_a_verdict_is_what_the_node_gets(given: VerdictOutcome) -> None:
    _, resume = asked(PRICE)
    verdict = resume(outcome(verdict=given))
    assert (verdict.outcome, verdict.verdict_id, verdict.expires_at) == (given, "t:i", NOW)
    assert verdict.proceed is (given is VerdictOutcome.PROCEED)
    assert verdict["price"].outcome is given
    assert verdict.reason == ("every premise holds" if verdict.proceed else "price: because")
    with pytest.raises(KeyError, match="size"):
        verdict["size"]


@pytest.mark.parametrize(
    "given", [True, "proceed", {"outcome": "proceed"}, [], outcome(OutcomeKind.DUE), outcome(OutcomeKind.ANSWER)]
)
def test_nothing_else_passes(given: Any) -> None:
    _, resume = asked(PRICE)
    verdict = resume(given)
    assert (verdict.outcome, verdict.proceed, verdict.verdict_id) == (VerdictOutcome.UNKNOWN, False, None)


def test_a_verdict_on_another_action_does_not_pass() -> None:
    _, resume = asked(PRICE)
    verdict = resume(outcome(), action=ACTION | {"shares": 1000})
    assert (verdict.outcome, verdict.verdict_id) == (VerdictOutcome.UNKNOWN, None)
    assert "another action" in verdict.reason


def test_premises_read_well() -> None:
    made = [
        premise("status", mongodb("crm", "orders", {"_id": 7}, "/status", sort={"at": -1}), believed=None),
        premise("open", opensearch("shop", "orders", {"size": 0}, "/hits/total/value"), rule=between(high=3)),
        premise("seen", fetcher("seen", sku=7), rule=newer_than(timedelta(minutes=5))),
        premise("since", fetcher("seen"), rule=newer_than(NOW)),
        premise("text", http("https://h"), believed=fingerprint({"a": 1}), rule=unchanged()),
        premise("weight", fetcher("w"), believed=1, rule=absolute(0.5), on_violation="ask", on_unknown="ask"),
        premise("name", fetcher("n"), believed="x", rule=equal()),
    ]
    value, _ = asked(*made)
    wait = wait_of(value)
    assert wait is not None
    assert wait.validation is not None
    assert list(wait.validation.premises) == made


@pytest.mark.parametrize(
    "make",
    [
        lambda: premise("p", http("ftp://h"), believed=1),
        lambda: premise("p", http("http://h", "price"), believed=1),
        lambda: premise("p", http("http://h")),
        lambda: premise("p", http("http://h"), believed="10", rule=relative(0.1)),
        lambda: premise("p", http("http://h"), believed="abc", rule=unchanged()),
        lambda: premise("p", http("http://h"), believed=math.nan),
        lambda: premise("p", http("http://h"), believed=1, timeout=timedelta(hours=1)),
        between,
        lambda: relative(-1),
        lambda: newer_than(datetime(2026, 1, 1)),  # noqa: DTZ001
        lambda: fingerprint({1, 2}),
        lambda: asked(PRICE, PRICE),
        asked,
        lambda: asked(PRICE, action={1, 2}),
        lambda: asked(PRICE, action=math.nan),
        lambda: asked(PRICE, timeout=timedelta()),
        lambda: asked(PRICE, expires=timedelta(days=2)),
    ],
)
def test_mistakes_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(WaitError):
        make()
