"""The effect ledger on a real database: once, guarded, and never twice without being noticed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Command
from tests.integration.effect_stage import Stage, doing, opened
from tests.support.polling import until_blocking

from perdure.schemas.waits import OutcomeKind, WaitOutcome
from perdure.sdk import (
    Done,
    EffectMisused,
    EffectNotDone,
    EffectTimeout,
    GuardExpired,
    GuardMismatch,
    GuardMissing,
    GuardRefused,
    GuardUsed,
    KeyReused,
    NotDone,
    OutsidePerdure,
    ReceiptUnstorable,
    RunLost,
    Unknown,
    effect,
    effect_blocking,
)

ACTION = {"pay": 82_000}


@pytest.fixture
async def stage(database_uri: str) -> AsyncIterator[Stage]:
    async with opened(database_uri) as made:
        yield made


class World:
    """What effects act on."""

    def __init__(self) -> None:
        self.acts: list[str] = []

    async def act(self, key: str) -> dict[str, Any]:
        self.acts.append(key)
        await asyncio.sleep(0)
        return {"number": len(self.acts)}

    async def die(self, key: str) -> None:
        """Act, and fail before anybody learns of it."""
        self.acts.append(key)
        raise ConnectionResetError("no answer")


async def test_the_second_call_returns_the_receipt(stage: Stage) -> None:
    world, thread = World(), await stage.thread()
    first = await stage.play(thread, doing("order", world.act))
    assert await stage.play(thread, doing("order", world.act)) == first == {"number": 1}
    assert world.acts == [f"{thread}:order"], "the idempotency key"
    await stage.play(thread, doing("another", world.act))
    other = await stage.thread()
    await stage.play(other, doing("order", world.act))
    assert len(world.acts) == 3


async def test_ordinary_nodes_act_in_their_own_thread(stage: Stage) -> None:
    import threading

    seen: list[Any] = []

    def node(_: Any) -> dict[str, Any]:
        mine = threading.get_ident()

        def act(key: str) -> Any:
            seen.append((key, threading.get_ident() == mine))
            return {"at": [1, 2.5, None]}

        return {"result": [effect_blocking("order", act), effect_blocking("order", act)]}

    thread = await stage.thread()
    assert await stage.play(thread, node) == [{"at": [1, 2.5, None]}] * 2
    assert seen == [(f"{thread}:order", True)]


async def test_the_blocking_twin_raises_what_the_function_raised_and_refuses_the_event_loop(stage: Stage) -> None:
    def fails(key: str) -> None:
        raise ConnectionResetError(key)

    thread = await stage.thread()
    with pytest.raises(ConnectionResetError):
        await stage.play(thread, lambda _: {"result": effect_blocking("order", fails)})

    async def on_the_loop(_: Any) -> Any:
        return {"result": effect_blocking("other", fails)}

    with pytest.raises(EffectMisused, match="await effect"):
        await stage.play(thread, on_the_loop)


async def test_outside_perdure(stage: Stage) -> None:
    with pytest.raises(OutsidePerdure):
        await effect("order", World().act)


async def test_one_key_stands_for_one_action(stage: Stage) -> None:
    world, thread = World(), await stage.thread()
    await stage.play(thread, doing("order", world.act, action={"pay": 1}))
    with pytest.raises(KeyReused) as refused:
        await stage.play(thread, doing("order", world.act, action={"pay": 2}))
    assert refused.value.recorded in str(refused.value)
    assert str(refused.value.given) in str(refused.value)
    assert len(world.acts) == 1


# ---------------------------------------------------------------------- guards


async def test_approve_82000_run_820000(stage: Stage) -> None:
    world, thread = World(), await stage.thread()
    approval = await stage.approval(thread, ACTION)
    with pytest.raises(GuardMismatch):
        await stage.play(thread, doing("pay", world.act, action={"pay": 820_000}, approval=approval))
    assert world.acts == []
    assert await stage.db.effects.count_documents({}) == 0, "a refusal uses nothing up"
    await stage.play(thread, doing("pay", world.act, action=ACTION, approval=approval))
    assert len(world.acts) == 1


@pytest.mark.parametrize("answer", [False, None, "yes", 1, {"approved": "true"}, {"approved": False}, {}, [True]])
async def test_an_answer_that_does_not_approve(stage: Stage, answer: Any) -> None:
    world, thread = World(), await stage.thread()
    approval = await stage.approval(thread, ACTION, answer)
    with pytest.raises(GuardRefused):
        await stage.play(thread, doing("pay", world.act, action=ACTION, approval=approval))
    assert world.acts == []


@pytest.mark.parametrize("outcome", ["stale", "unknown", "ask"])
async def test_a_verdict_that_is_not_proceed(stage: Stage, outcome: str) -> None:
    world, thread = World(), await stage.thread()
    verdict = await stage.verdict(thread, ACTION, outcome)
    with pytest.raises(GuardRefused, match=outcome):
        await stage.play(thread, doing("pay", world.act, action=ACTION, verdict=verdict))
    assert world.acts == []


async def test_every_other_refusal(stage: Stage) -> None:
    world, thread = World(), await stage.thread()
    elsewhere = await stage.thread()
    past = datetime.now(UTC) - timedelta(seconds=1)
    refusals: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"verdict": None}, GuardMissing),
        ({"approval": None}, GuardMissing),
        ({"verdict": await stage.verdict(thread, ACTION), "approval": None}, GuardMissing),
        ({"verdict": f"{thread}:nobody"}, GuardMissing),
        ({"verdict": await stage.verdict(elsewhere, ACTION)}, GuardMismatch),
        ({"verdict": await stage.verdict(thread, {"pay": 1})}, GuardMismatch),
        ({"verdict": await stage.verdict(thread, ACTION, action_digest="0" * 64)}, GuardMismatch),
        ({"verdict": await stage.approval(thread, ACTION)}, GuardMismatch),
        ({"approval": await stage.verdict(thread, ACTION)}, GuardMismatch),
        ({"verdict": await stage.verdict(thread, ACTION, expires_in_s=-1)}, GuardExpired),
        ({"verdict": await stage.verdict(thread, ACTION, expires_at=past)}, GuardExpired),
        ({"approval": await stage.approval(thread, ACTION, expires_at=past)}, GuardExpired),
    ]
    for given, expected in refusals:
        with pytest.raises(expected):
            await stage.play(thread, doing("pay", world.act, action=ACTION, **given))
    with pytest.raises(EffectMisused, match="action="):
        await stage.play(thread, doing("pay", world.act, verdict=f"{thread}:x"))
    assert world.acts == []
    assert await stage.db.effects.count_documents({}) == 0


async def test_a_forged_waking_run_is_no_guard(stage: Stage) -> None:
    """Whoever registers a run with the key of a waking run, as a client can, has not decided anything."""
    world, thread = World(), await stage.thread()
    real = await stage.approval(thread, ACTION)
    changed = await stage.db.runs.update_one({"wait_id": real}, {"$unset": {"wait_id": ""}})
    assert changed.modified_count == 1
    with pytest.raises(GuardMissing):
        await stage.play(thread, doing("pay", world.act, action=ACTION, approval=real))
    assert world.acts == []


async def test_fifty_effects_with_one_verdict(stage: Stage) -> None:
    world, thread = World(), await stage.thread()
    verdict = await stage.verdict(thread, ACTION)
    results = await asyncio.gather(
        *(stage.play(thread, doing(f"pay-{n}", world.act, action=ACTION, verdict=verdict)) for n in range(50)),
        return_exceptions=True,
    )
    assert len(world.acts) == 1
    assert sum(isinstance(one, GuardUsed) for one in results) == 49
    used = next(one for one in results if isinstance(one, GuardUsed))
    assert used.used_by == world.acts[0]


async def test_without_the_unique_index_the_promise_breaks(stage: Stage) -> None:
    """So that the test above is known to look at what it should."""
    world, thread = World(), await stage.thread()
    await stage.db.effects.drop_index("guard_once")
    verdict = await stage.verdict(thread, ACTION)
    for n in range(2):
        await stage.play(thread, doing(f"pay-{n}", world.act, action=ACTION, verdict=verdict))
    assert len(world.acts) == 2


async def test_fifty_calls_of_one_effect(stage: Stage) -> None:
    world, thread = World(), await stage.thread()
    verdict = await stage.verdict(thread, ACTION)
    node = doing("pay", world.act, action=ACTION, verdict=verdict)
    results = await asyncio.gather(*(stage.play(thread, node) for _ in range(50)))
    assert results == [{"number": 1}] * 50
    assert len(world.acts) == 1


async def test_both_guards_are_needed_and_used(stage: Stage) -> None:
    world, thread = World(), await stage.thread()
    verdict, approval = await stage.verdict(thread, ACTION), await stage.approval(thread, ACTION, {"approved": True})
    await stage.play(thread, doing("pay", world.act, action=ACTION, verdict=verdict, approval=approval))
    for used in ({"verdict": verdict}, {"approval": approval}):
        with pytest.raises(GuardUsed):
            await stage.play(thread, doing("again", world.act, action=ACTION, **used))
    assert len(world.acts) == 1


# ---------------------------------------------------------------------- unknown


async def test_a_plain_effect_that_failed_is_tried_again_with_the_same_key(stage: Stage) -> None:
    world, thread = World(), await stage.thread()
    with pytest.raises(ConnectionResetError):
        await stage.play(thread, doing("order", world.die))
    assert await stage.play(thread, doing("order", world.act)) == {"number": 2}
    assert world.acts == [f"{thread}:order"] * 2
    (document,) = await stage.db.effects.find().to_list(None)
    assert [one["outcome"] for one in document["attempts"]] == ["unknown", "done"]
    assert "no answer" in document["attempts"][0]["error"]


async def test_reconcile_knows_that_it_happened(stage: Stage) -> None:
    world, thread = World(), await stage.thread()
    verdict = await stage.verdict(thread, ACTION)
    guarded: dict[str, Any] = {"action": ACTION, "verdict": verdict}

    async def look(key: str) -> Done:
        return Done({"found": key})

    with pytest.raises(ConnectionResetError):
        await stage.play(thread, doing("pay", world.die, **guarded))
    again = await stage.play(thread, doing("pay", world.act, reconcile=look, **guarded))
    assert again == {"found": f"{thread}:pay"}
    assert len(world.acts) == 1


async def test_reconcile_knows_that_it_did_not(stage: Stage) -> None:
    """The same verdict lets the same effect try again while it lasts; afterwards another is needed, and does."""
    world, thread = World(), await stage.thread()
    short = await stage.verdict(thread, ACTION, expires_in_s=1)
    more: dict[str, Any] = {"action": ACTION, "reconcile": lambda _: NotDone()}
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            await stage.play(thread, doing("pay", world.die, verdict=short, **more))
    await until_past(1)
    with pytest.raises(GuardExpired):
        await stage.play(thread, doing("pay", world.act, verdict=short, **more))
    fresh = await stage.verdict(thread, ACTION)
    assert await stage.play(thread, doing("pay", world.act, verdict=fresh, **more)) == {"number": 3}
    (document,) = await stage.db.effects.find().to_list(None)
    assert document["guards"] == [short, fresh]


async def until_past(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("happened", [True, False])
@pytest.mark.parametrize("reconcile", [None, "unknown", "raises"])
async def test_a_person_is_asked(stage: Stage, happened: bool, reconcile: str | None) -> None:
    world, thread = World(), await stage.thread()
    verdict = await stage.verdict(thread, ACTION)

    def look(key: str) -> Unknown:
        if reconcile == "raises":
            raise ConnectionRefusedError(key)
        return Unknown()

    more: dict[str, Any] = {"action": ACTION, "verdict": verdict, "reconcile": look if reconcile else None}
    with pytest.raises(ConnectionResetError):
        await stage.play(thread, doing("pay", world.die, **more))
    play = stage.player(thread, doing("pay", world.act, **more))
    (interrupt,) = (await play())["__interrupt__"]
    question = interrupt.value["question"]
    assert question["details"]["idempotency_key"] == f"{thread}:pay"
    assert question["details"]["action"] == ACTION
    assert "no answer" in question["details"]["error"]
    assert question["answer_schema"]["required"] == ["happened"]
    answer = {"happened": happened} | ({"receipt": "paper"} if happened else {})
    outcome = WaitOutcome(kind=OutcomeKind.ANSWER, wait_id="w", at=datetime.now(UTC), payload=answer, by="ada")
    result = (await play(Command(resume=outcome.value())))["result"]
    assert result == ("paper" if happened else {"number": 2})
    assert len(world.acts) == (1 if happened else 2)
    (document,) = await stage.db.effects.find().to_list(None)
    assert document["receipt_by"] == ("ada" if happened else "attempt 2")


async def test_answers_keep_their_order_after_a_question_about_an_effect(stage: Stage) -> None:
    """LangGraph gives answers by position: an effect that asked must take its answer on every replay, also when it is done."""
    from perdure.sdk import ask_human

    world, thread = World(), await stage.thread()
    with pytest.raises(ConnectionResetError):
        await stage.play(thread, doing("order", world.die))

    async def node(_: Any) -> dict[str, Any]:
        receipt = await effect("order", world.act, on_unknown="ask")
        return {"result": [receipt, ask_human("and now?").value, ask_human("and then?").value]}

    play = stage.player(thread, node)
    await play()
    for given in ("nonsense", {"happened": True, "receipt": 7}, "first"):
        await play(Command(resume=given))
    assert (await play(Command(resume="second")))["result"] == [7, "first", "second"]
    assert len(world.acts) == 1


async def test_the_function_may_say_that_it_did_not_happen(stage: Stage) -> None:
    world, thread = World(), await stage.thread()
    verdict = await stage.verdict(thread, ACTION)

    async def refuses(_: str) -> None:
        raise EffectNotDone("the broker is closed")

    async def unreachable(_: str) -> None:
        raise ConnectionRefusedError

    with pytest.raises(EffectNotDone):
        await stage.play(thread, doing("pay", refuses, action=ACTION, verdict=verdict))
    with pytest.raises(ConnectionRefusedError):
        await stage.play(
            thread, doing("pay", unreachable, action=ACTION, verdict=verdict, not_done=(ConnectionRefusedError,))
        )
    with pytest.raises(GuardUsed):
        await stage.play(thread, doing("other", world.act, action=ACTION, verdict=verdict))
    assert await stage.play(thread, doing("pay", world.act, action=ACTION, verdict=verdict)) == {"number": 1}


async def test_a_function_that_takes_too_long_is_stopped(stage: Stage) -> None:
    thread = await stage.thread()

    async def endless(_: str) -> None:
        await asyncio.sleep(3600)

    with pytest.raises(EffectTimeout):
        await stage.play(thread, doing("order", endless, timeout=timedelta(seconds=0.2)))
    assert await stage.play(thread, doing("order", lambda _: 5)) == 5


@pytest.mark.parametrize("receipt", [object(), "x" * (1024 * 1024 + 1)])
async def test_a_receipt_that_cannot_be_kept_is_no_reason_to_act_again(stage: Stage, receipt: Any) -> None:
    thread = await stage.thread()
    calls: list[str] = []

    def act(key: str) -> Any:
        calls.append(key)
        return receipt

    for _ in range(2):
        with pytest.raises(ReceiptUnstorable):
            await stage.play(thread, doing("order", act))
    assert len(calls) == 1


# ---------------------------------------------------------------------- owners


async def test_a_worker_that_lost_the_run_begins_nothing(stage: Stage) -> None:
    world, thread = World(), await stage.thread()
    await stage.taken_over(thread)
    with pytest.raises(RunLost):
        await stage.play(thread, doing("order", world.act), epoch=1)
    assert world.acts == []


async def test_a_cancelled_node_leaves_an_attempt_that_is_over(stage: Stage) -> None:
    world, thread = World(), await stage.thread()
    acting = asyncio.Event()

    async def hangs(key: str) -> None:
        acting.set()
        await asyncio.sleep(3600)

    task = asyncio.create_task(stage.play(thread, doing("order", hangs)))
    await acting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    began = time.monotonic()
    assert await stage.play(thread, doing("order", world.act)) == {"number": 1}
    assert time.monotonic() - began < 2, "waited for the deadline of an attempt that is known to be over"


async def test_a_cancelled_node_does_not_lose_the_receipt_of_what_cannot_be_stopped(stage: Stage) -> None:
    import threading

    world, thread = World(), await stage.thread()
    acting, going_on = threading.Event(), threading.Event()

    def blocks(key: str) -> str:
        world.acts.append(key)
        acting.set()
        assert going_on.wait(30)
        return "after all"

    task = asyncio.create_task(stage.play(thread, doing("order", blocks)))
    assert await asyncio.to_thread(acting.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    successor = asyncio.create_task(stage.play(thread, doing("order", world.act)))
    going_on.set()
    assert await successor == "after all"
    assert len(world.acts) == 1


@pytest.mark.parametrize("guarded", [True, False])
async def test_what_takes_too_long_to_begin_is_not_begun(stage: Stage, guarded: bool) -> None:
    """An attempt may act only while its time and its guard's last: one that stood still in between does not."""
    world, thread = World(), await stage.thread()
    instant = timedelta(microseconds=1)
    more: dict[str, Any] = {"timeout": instant}
    if guarded:
        verdict = await stage.verdict(thread, ACTION, expires_in_s=0.02)
        more |= {"action": ACTION, "verdict": verdict}
    with pytest.raises((EffectTimeout, GuardExpired)):
        await stage.play(thread, doing("order", world.act, **more))
    assert world.acts == []
    found = await stage.db.effects.find().to_list(None)
    assert {one["state"] for one in found} <= {"not_done"}


Victim = Callable[[str, Path, float], "subprocess.Popen[str]"]


@pytest.fixture
def victim(stage: Stage, database_uri: str) -> Iterator[Victim]:
    """Start a process that begins the effect ``order``; returns when it acts."""
    started: list[subprocess.Popen[str]] = []

    def start(thread: str, file: Path, timeout_s: float) -> subprocess.Popen[str]:
        script = Path(__file__).with_name("effect_victim.py")
        command = [sys.executable, str(script), database_uri, stage.db.name, thread, str(file), str(timeout_s)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

        def acts() -> bool:
            assert started[-1].poll() is None, "the victim ended by itself"
            return file.exists()

        until_blocking(acts, "the victim acts")
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


async def test_kill_9_between_intent_and_receipt(stage: Stage, victim: Victim, tmp_path: Path) -> None:
    """On the same machine the death is proved, so that nobody waits for the hour that the attempt had."""
    thread, file = await stage.thread(), tmp_path / "acts"
    process = victim(thread, file, 3600)
    os.kill(process.pid, signal.SIGKILL)
    epoch = await stage.taken_over(thread)
    looked: list[str] = []

    async def look(key: str) -> Done:
        looked.append(key)
        return Done(file.read_text().split())

    world = World()
    receipt = await stage.play(thread, doing("order", world.act, reconcile=look), epoch)
    assert receipt == looked == [f"{thread}:order"]
    assert world.acts == []


async def test_a_frozen_owner_is_waited_for_and_noticed_when_it_goes_on(
    stage: Stage, victim: Victim, tmp_path: Path
) -> None:
    thread, file = await stage.thread(), tmp_path / "acts"
    began = time.monotonic()
    process = victim(thread, file, 2)
    os.kill(process.pid, signal.SIGSTOP)
    epoch = await stage.taken_over(thread)
    world = World()
    assert await stage.play(thread, doing("order", world.act), epoch) == {"number": 1}
    assert time.monotonic() - began > 2, "somebody acted while the frozen owner still might"
    Path(f"{file}.go").touch()
    os.kill(process.pid, signal.SIGCONT)
    out, _ = await asyncio.to_thread(process.communicate, timeout=30)
    assert "{'number': 1}" in out.splitlines(), "the receipt on record counts"
    (document,) = await stage.db.effects.find().to_list(None)
    assert "effect.twice" in out
    (more,) = document["more_receipts"]
    assert more["same"] is False
    assert document["attempts"][0]["outcome"] == "done"


async def test_the_database_goes_away_while_an_effect_acts(own_mongodb: Any) -> None:
    returning: list[asyncio.Task[None]] = []

    async def come_back() -> None:
        await asyncio.sleep(0.5)
        await asyncio.to_thread(own_mongodb.start_server, "mongodb")

    async def act(key: str) -> str:
        await asyncio.to_thread(own_mongodb.stop_server, "mongodb", kill=True)
        returning.append(asyncio.create_task(come_back()))
        return key

    async with opened(own_mongodb.environment()["PERDURE_MONGODB_URI"]) as stage:
        thread = await stage.thread()
        assert await stage.play(thread, doing("order", act)) == f"{thread}:order"
        await asyncio.gather(*returning)
        (document,) = await stage.db.effects.find().to_list(None)
        assert document["state"] == "done"
