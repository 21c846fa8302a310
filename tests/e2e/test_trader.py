"""examples/trader under the real services: never at a price that is not true any more, and never twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.market import EXAMPLE, Market
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(240)

YES = {"answer": {"approved": True}, "by": "ada"}


@pytest.fixture(scope="module")
def trading(stack: Any, start_module_system: Any, tmp_path_factory: Any) -> Iterator[tuple[Any, Market]]:
    market = Market(tmp_path_factory.mktemp("market"))
    try:
        system = start_module_system(
            names=("gateway", "agent_step", "validator", "scheduler"),
            settings={
                "PERDURE_LANGGRAPH_CONFIG": str(EXAMPLE / "langgraph.json"),
                "TRADER_QUOTES_URL": market.quotes_url,
                "TRADER_BROKER_URL": market.broker_url,
            },
        )
        until_blocking(market.answers, "the market answers")
        yield system, market
    finally:
        market.stop()


@pytest.fixture
def world(trading: tuple[Any, Market]) -> tuple[Any, Market]:
    """The system, and a market where ACME costs 10 and nothing was ordered."""
    system, market = trading
    market.costs(10)
    market.behaves()
    return system, market


def ordered(market: Market, run: Any) -> list[dict[str, Any]]:
    return [one for one in market.orders() if one["client_order_id"].startswith(run["thread_id"])]


def question(system: Any, run: Any) -> Any:
    """The open question of a thread."""

    def asked() -> Any:
        found = system.http.get("/approvals", params={"thread_id": run["thread_id"]}).json()["approvals"]
        return found[0] if found else None

    return until_blocking(asked, "the trader asks")


def answer(system: Any, asked: Any, given: Any) -> None:
    response = system.http.post(f"/approvals/{asked['approval_id']}", json=given)
    assert response.status_code == 202, response.text


def story(system: Any, run: Any) -> str:
    """What is known of a thread, for a failure."""
    mine = {"thread_id": run["thread_id"]}
    found = [*system.db.runs.find(mine), *system.db.waits.find(mine), *system.db.effects.find(mine)]
    left_out = {"interrupts", "validation", "payload"}
    return "\n".join(str({name: one[name] for name in one if name not in left_out}) for one in found)


def finished(system: Any, run: Any, status: str = "success") -> Any:
    """The last run of a thread once the thread has come to its end."""

    def ended() -> Any:
        last = max(system.db.runs.find({"thread_id": run["thread_id"]}), key=lambda one: one["created_at"])
        return last if last["settled"] and last["status"] in {"success", "error"} else None

    last = until_blocking(ended, "the trader ends", explain=lambda: story(system, run))
    assert last["status"] == status, last["error"]
    return last


def test_a_stale_price_is_never_bought(world: Any) -> None:
    system, market = world
    market.costs(12)
    run = system.start("trader", {"symbol": "ACME", "budget": 1200, "believed": 10})
    asked = question(system, run)
    assert "10" in asked["question"]
    assert "12" in asked["question"]
    assert asked["details"]["outcome"] == "stale"
    assert asked["action"]["limit"] == 12.12, "what is proposed is for the fresh price"
    assert ordered(market, run) == []
    answer(system, asked, {"answer": {"approved": False}, "by": "ada"})
    finished(system, run)
    assert system.values(run["thread_id"])["log"][-1] == "gave up"
    assert ordered(market, run) == []


def test_a_person_allows_the_fresh_price(world: Any) -> None:
    system, market = world
    market.costs(12)
    run = system.start("trader", {"symbol": "ACME", "budget": 1200, "believed": 10})
    answer(system, question(system, run), YES)
    finished(system, run)
    (bought,) = ordered(market, run)
    assert (bought["quantity"], bought["limit"]) == (100, 12.12)


def test_the_world_changes_while_the_agent_sleeps(world: Any) -> None:
    system, market = world
    run = system.start("trader", {"symbol": "ACME", "budget": 1200, "think_s": 1.5})
    system.until_ended(run)
    market.costs(12)
    assert question(system, run)["details"] == {"believed": 10.0, "fresh": 12.0, "outcome": "stale"}
    assert ordered(market, run) == []


def test_a_fresh_price_is_bought_once_under_kill_9(world: Any) -> None:
    """The broker accepts and does not answer; the worker is killed between the order and its receipt."""
    system, market = world
    market.behaves(hang=True)
    run = system.start("trader", {"symbol": "ACME", "budget": 1200, "believed": 10})
    until_blocking(lambda: ordered(market, run), "the order")
    worker = system.services["agent_step"]
    worker.kill()
    market.behaves()
    assert system.db.effects.find_one({"thread_id": run["thread_id"]})["state"] == "intent"
    worker.start()
    finished(system, run)
    (bought,) = ordered(market, run)
    assert (bought["quantity"], bought["limit"]) == (120, 10.1)
    assert system.values(run["thread_id"])["receipt"] == bought
    assert system.db.effects.find_one({"thread_id": run["thread_id"]})["receipt_by"] == "reconcile"
    system.assert_linear([run["thread_id"]])


def test_forty_traders_while_their_worker_is_killed_again_and_again(world: Any) -> None:
    system, market = world
    market.behaves(delay_s=0.3)
    before = len(market.orders())
    runs = [system.start("trader", {"symbol": "ACME", "budget": 1200, "believed": 10}) for _ in range(40)]
    worker = system.services["agent_step"]
    for count in (1, 12, 25, 39):
        until_blocking(lambda least=before + count: len(market.orders()) >= least, "more orders")
        worker.kill()
        worker.start()
    for run in runs:
        finished(system, run)
    threads = [run["thread_id"] for run in runs]
    orders = Counter(one["client_order_id"] for one in market.orders()[before:])
    assert orders == {f"{thread}:buy": 1 for thread in threads}
    by = Counter(one["receipt_by"] for one in system.db.effects.find({"thread_id": {"$in": threads}}))
    assert by["reconcile"] > 0, "no kill fell between an order and its receipt"
    system.assert_linear(threads)


def test_a_verdict_that_expired_is_fetched_again(world: Any) -> None:
    """The worker dies before the order, and is away for longer than the verdict lasts: the price is looked at again."""
    system, market = world
    run = system.start("trader", {"symbol": "ACME", "budget": 1200, "believed": 10, "verdict_s": 0.001})
    until_blocking(
        lambda: system.db.waits.count_documents({"thread_id": run["thread_id"], "kind": "validation"}) > 1,
        "a second validation",
    )
    assert ordered(market, run) == []
    market.costs(12)
    asked = question(system, run)
    assert asked["details"]["outcome"] == "stale"
    answer(system, asked, {"answer": {"approved": False}, "by": "ada"})
    finished(system, run)
    assert ordered(market, run) == []


def test_approve_82000_run_820000(world: Any) -> None:
    system, market = world
    budget = 82_000
    run = system.start("trader", {"symbol": "ACME", "budget": budget, "believed": 10, "slip": 10})
    asked = question(system, run)
    assert asked["action"]["quantity"] == budget // 10
    answer(system, asked, YES)
    last = finished(system, run, "error")
    assert last["error"]["type"].endswith("GuardMismatch")
    assert ordered(market, run) == []
    honest = system.start("trader", {"symbol": "ACME", "budget": budget, "believed": 10})
    answer(system, question(system, honest), YES)
    finished(system, honest)
    assert [one["quantity"] for one in ordered(market, honest)] == [budget // 10]
