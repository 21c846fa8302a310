"""The checker notices: every promise is broken on purpose, in data and, once, in a real database without its unique index."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.errors import DuplicateKeyError
from tests.chaos.agents import Agent, agent
from tests.chaos.checker import check
from tests.chaos.evidence import Evidence, database, history_of
from tests.chaos.promises import promises
from tests.chaos.readers import Streamed
from tests.chaos.sampler import IDLE_S, LATE_S, Samples, Watch

from perdure.checkpoint.store import INDEXES
from perdure.local.stack import Stack

SEED = 5
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def _agent(graph: str) -> Agent:
    return next(one for one in (agent(SEED, n) for n in range(200)) if one.graph == graph)


CHAIN, REPLY, ASKS, POST, STALE, PATIENT = map(_agent, ("chain", "reply", "asks", "post", "stale", "patient"))
ALL = (CHAIN, REPLY, ASKS, POST, STALE, PATIENT)


def _thread(one: Agent) -> str:
    return f"t-{one.graph}"


C, R, A, P, S, W = (_thread(one) for one in ALL)


def _history(thread: str, run: str, first: int, parent: str | None, end: str) -> list[dict[str, Any]]:
    """Started, one checkpoint, the end."""
    shared = {"thread": thread, "run": run, "epoch": 1}
    checkpoint = {
        "ns": "",
        "checkpoint_id": f"{first:04}",
        "parent": parent,
        "step": first,
        "ev": {"source": "loop", "channels": ["n"]},
    }
    return [
        {"_id": f"{thread}-{first}", "kind": "e", "seq": first, "event": "started", **shared},
        {"_id": f"{thread}-{first + 1}", "kind": "c", "seq": first + 1, **checkpoint, **shared},
        {"_id": f"{thread}-{first + 2}", "kind": "e", "seq": first + 2, "event": end, **shared},
    ]


def _run(run: str, thread: str, status: str, ended_seq: int, **more: Any) -> dict[str, Any]:
    return {
        "_id": run,
        "thread_id": thread,
        "status": status,
        "settled": True,
        "ended_seq": ended_seq,
        "owner": None,
        **more,
    }


def healthy() -> Evidence:
    """Six agents for whom everything went well, one of which waits, two of which were woken."""
    workers = {"w1": {"_id": "w1", "state": "alive"}}
    found = Evidence({}, {}, {}, {}, workers, {}, {}, {}, {}, [], [], [], [], {}, {}, [], now=NOW)
    found.samples = Samples(looks=100, runs=250, longest_s=3.0)
    for one in ALL:
        thread, run = _thread(one), f"r-{one.graph}"
        waits = one in (REPLY, ASKS, PATIENT)
        entries = _history(thread, run, 1, None, "interrupted" if waits else "success")
        key = f"agent-{SEED}-{one.number}-0"
        found.runs[run] = _run(run, thread, "interrupted" if waits else "success", 3, idempotency_key=key)
        found.threads[thread] = {"_id": thread, "interrupts": [], "next": []}
        found.driver.append(
            {"what": "start", "key": key, "agent": one.number, "graph": one.graph, "thread": thread, "run": run}
        )
        found.logs[thread] = list(one.expect[0]) if one.expect else ["before"]
        if waits:
            wait = f"{thread}:i"
            found.waits[wait] = {"_id": wait, "thread_id": thread, "status": "open", "events": ["never"]}
            found.threads[thread] |= {"interrupts": [{"id": "i"}], "next": ["n"]}
        if one in (REPLY, ASKS):
            entries += _history(thread, f"{run}-woken", 4, "0001", "success")
            _wake(found, one, thread, f"{run}-woken")
        found.history[thread] = entries
        found.events[thread] = [f"{thread}:{entry['seq']}" for entry in entries]
        found.states += [(event, thread) for event in found.events[thread]]
        found.newest.append((thread, {"thread_id": thread, "seq": len(entries)}))
    key = f"{_thread(POST)}:post"
    done = {"_id": key, "state": "done", "done_at": NOW}
    found.effects[key] = done
    found.world.append(
        {"key": key, "thread": _thread(POST), "effect": "post", "at": NOW.timestamp() - 1, "applied": True}
    )
    for run in [one["_id"] for one in found.runs.values() if one["status"] == "success"]:
        found.deliveries[f"msg_{run}"] = {"_id": f"msg_{run}", "run_id": run, "kind": "completed", "state": "delivered"}
        found.hooks.append({"hook": f"msg_{run}"})
    found.poisoned = ["perdure.events:0:7"]
    found.dead_letters["perdure.events:0:7"] = {"_id": "perdure.events:0:7", "reason": "handler", "detail": "x"}
    for thread in (C, R):
        found.streams[thread] = _streamed(found.history[thread])
    found.verified = {"states": len(found.states), "threads": len(found.newest), "differences": []}
    return found


def _streamed(entries: list[dict[str, Any]]) -> Streamed:
    """What a reader is told of runs of one superstep, with a chunk before it."""
    streamed = Streamed()
    for one in entries:
        if one["kind"] == "c":
            streamed.events += [(f"{one['seq'] - 1}+1", "custom"), (f"{one['seq']}-4", "updates")]
            streamed.events.append((f"{one['seq']}-7", "values"))
        else:
            streamed.events.append((f"{one['seq']}-1", "metadata"))
            if one["event"] != "started":
                streamed.ends.append(f"{one['seq']}-1")
    return streamed


def _wake(found: Evidence, one: Agent, thread: str, run: str) -> None:
    wait = f"{thread}:i"
    found.runs[run] = _run(run, thread, "success", 6, idempotency_key=f"wake:{wait}", wait_id=wait)
    found.threads[thread] |= {"interrupts": [], "next": []}
    outcome: dict[str, Any] = {"kind": "answer", "payload": {"n": one.number}}
    if one is REPLY:
        outcome = {"kind": "signal", "signal_id": "s1"}
        found.signals["s1"] = {"_id": "s1", "thread_id": thread, "name": "reply", "state": "taken", "taken_by": wait}
        found.driver.append({"what": "signal", "key": "k", "thread": thread, "name": "reply"})
    else:
        found.driver.append({"what": "answer", "thread": thread, "approval": wait, "n": one.number, "status": 202})
    found.waits[wait] |= {"status": "answered", "outcome": outcome, "woken_by": run}


def test_healthy_evidence_is_clean() -> None:
    verdict = check(healthy(), SEED)
    assert verdict.holds, verdict.table()
    assert all(found.checked for found in verdict.findings.values())
    assert "every promise held" in verdict.table()


def test_a_promise_that_nothing_was_held_against_is_broken() -> None:
    nothing = Evidence({}, {}, {}, {}, {}, {}, {}, {}, {}, [], [], [], [], now=NOW)
    verdict = check(nothing, SEED)
    assert verdict.broken() == set(promises(SEED))
    evidence = healthy()
    evidence.effects, evidence.world = {}, []
    assert "no act after a receipt" in check(evidence, SEED).broken()


def _second(entries: list[dict[str, Any]], **change: Any) -> None:
    entries.append(copy.deepcopy(entries[1]) | change)


BREAKS: dict[str, list[Callable[[Evidence], object]]] = {
    "sequence without gaps": [
        lambda e: e.history[C].append(dict(e.history[C][0])),
        lambda e: e.history[C].pop(1),
    ],
    "every step once": [lambda e: _second(e.history[C], seq=4, checkpoint_id="0009", parent="0001")],
    "no fork": [
        lambda e: [
            _second(e.history[R], seq=7 + i, step=7 + i, checkpoint_id=f"000{8 + i}", parent="0004") for i in (0, 1)
        ],
        lambda e: e.history[R][4].update(parent=None),
    ],
    "checkpoints in order": [lambda e: e.history[R][1].update(checkpoint_id="0009")],
    "one run at a time": [lambda e: e.history[R].append({**e.history[R][0], "seq": 7})],
    "acknowledged starts kept": [
        lambda e: e.runs.pop(f"r-{CHAIN.graph}"),
        lambda e: e.runs[f"r-{CHAIN.graph}"].update(status="error", error={"type": "X"}),
        lambda e: e.threads.pop(C),
        lambda e: e.runs.update(again={**e.runs[f"r-{CHAIN.graph}"], "_id": "again"}),
    ],
    "finished or waiting": [
        lambda e: e.threads[C].update(next=["n"]),
        lambda e: e.threads[W].update(interrupts=[{"id": "other"}]),
        lambda e: e.signals.update(s2={"_id": "s2", "thread_id": W, "name": "never", "state": "free"}),
    ],
    "outcome as expected": [lambda e: e.logs[C].append("0"), lambda e: e.logs.pop(A), lambda e: e.waits.pop(f"{W}:i")],
    "waits end once": [
        lambda e: e.runs.update(x={**e.runs["r-reply-woken"], "_id": "x", "idempotency_key": "other"}),
        lambda e: e.waits[f"{R}:i"].update(woken_by="nobody"),
        lambda e: e.waits[f"{W}:i"].update(due_at=NOW - timedelta(minutes=1)),
        lambda e: e.waits.pop(f"{R}:i"),
    ],
    "signals once": [
        lambda e: e.waits[f"{A}:i"].update(outcome={"kind": "signal", "signal_id": "s1"}),
        lambda e: e.signals.pop("s1"),
        lambda e: e.signals["s1"].update(state="free", taken_by=None),
    ],
    "answers once": [
        lambda e: e.waits[f"{A}:i"].update(outcome={"kind": "answer", "payload": {"n": -1}}),
        lambda e: e.driver.append(next(one for one in e.driver if one["what"] == "answer")),
    ],
    "effects once": [
        lambda e: e.world.append({**e.world[0], "key": "another key"}),
        lambda e: e.world.clear(),
        lambda e: e.world.append({**e.world[0], "thread": S, "effect": "buy"}),
        lambda e: e.effects[f"{P}:post"].update(more_receipts=[{"same": False}]),
    ],
    "no act after a receipt": [lambda e: e.world.append({**e.world[0], "at": NOW.timestamp() + 9, "applied": False})],
    "every event published": [lambda e: e.events[C].pop(), lambda e: e.events[C].append(f"{C}:99")],
    "events in order": [lambda e: e.events[C].reverse()],
    "index = store": [
        lambda e: e.states.pop(),
        lambda e: e.states.append((f"{C}:99", C)),
        lambda e: e.states.append(e.states[0]),
    ],
    "newest state indexed": [lambda e: e.newest[0][1].update(seq=2), lambda e: e.newest.pop()],
    "the index agrees with the database": [
        lambda e: setattr(e, "verified", None),
        lambda e: e.verified["differences"].append({"kind": "wrong", "of": "states", "id": f"{C}:2", "index": "i"}),
    ],
    "no run without owner": [
        lambda e: e.runs["r-chain"].update(status="running", owner="w9"),
        lambda e: e.runs["r-chain"].update(status="pending", settled=False),
        lambda e: e.runs["r-chain"].update(settled=False),
    ],
    "no owned run idle": [
        lambda e: e.samples.idle.append({"run_id": "r", "thread_id": C, "owner": "w1", "epoch": 2, "seconds": 26.0}),
        lambda e: setattr(e, "samples", Samples()),
        lambda e: setattr(e.samples, "failed", "OSError: gone"),
    ],
    "ends recorded": [
        lambda e: e.history[C][2].update(event="error"),
        lambda e: e.history[C].append({**e.history[C][2], "seq": 4}),
    ],
    "notices told": [
        lambda e: e.deliveries.pop("msg_r-chain"),
        lambda e: e.deliveries["msg_r-chain"].update(state="dead"),
        lambda e: e.deliveries.update(twice={**e.deliveries["msg_r-chain"], "_id": "twice"}),
        lambda e: e.hooks.pop(0),
        lambda e: e.hooks.append({"hook": "msg_unheard_of"}),
    ],
    "streams complete": [
        lambda e: e.streams[R].events.remove(("5-7", "values")),
        lambda e: e.streams[R].events.append(("5-7", "values")),
        lambda e: e.streams[R].events.insert(0, ("6-1", "metadata")),
        lambda e: e.streams[R].ends.pop(),
        lambda e: e.streams[R].ends.append("6-1"),
        lambda e: e.streams.clear(),
    ],
    "dead letters as expected": [
        lambda e: e.dead_letters.clear(),
        lambda e: e.dead_letters.update(other={"_id": "other", "reason": "handler", "detail": "x"}),
        lambda e: e.dead_letters["perdure.events:0:7"].update(reason=""),
    ],
    "clients served": [
        lambda e: e.driver.append({"what": "refused", "method": "GET", "path": "/", "status": 404, "body": ""})
    ],
}


@pytest.mark.parametrize(
    ("promise", "number"), [(name, number) for name, breaks in BREAKS.items() for number in range(len(breaks))]
)
def test_a_broken_promise_is_reported(promise: str, number: int) -> None:
    evidence = healthy()
    BREAKS[promise][number](evidence)
    verdict = check(evidence, SEED)
    assert promise in verdict.broken(), verdict.table()
    assert not verdict.holds
    examples = verdict.as_json()["promises"][promise]["examples"]
    assert examples
    assert all(example["what"] for example in examples)


def test_every_promise_is_broken_once() -> None:
    assert set(BREAKS) == set(promises(SEED))


OWNED = {"_id": "r1", "thread_id": "t1", "owner": "w1", "epoch": 2}


def _watched(looks: int, *, step_s: float = 1.0, living: set[str], seq: Callable[[int], int] = lambda _: 3) -> Samples:
    """What comes of so many looks at one owned run."""
    watch = Watch()
    for number in range(looks):
        watch.look(number * step_s, [OWNED], {"t1": seq(number)}, living)
    return watch.samples


def test_an_owned_run_that_stands_still_is_seen_while_it_does() -> None:
    looks = int(IDLE_S) + 5
    (idle,) = _watched(looks, living={"w1"}).idle
    assert idle == {"run_id": "r1", "thread_id": "t1", "owner": "w1", "epoch": 2, "seconds": IDLE_S}
    assert _watched(looks, living={"w1"}).runs == looks


def test_progress_a_dead_worker_and_time_that_nobody_saw_are_no_standstill() -> None:
    looks = 2 * int(IDLE_S)
    assert not _watched(looks, living={"w1"}, seq=lambda number: number // 10).idle
    assert not _watched(looks, living=set()).idle
    assert not _watched(looks, step_s=LATE_S + 1, living={"w1"}).idle


def test_without_the_unique_index_a_fork_gets_in_and_is_reported(own_mongodb: Stack) -> None:
    """The same second checkpoint is refused with the index and breaks three promises without it."""
    evidence = healthy()
    uri = own_mongodb.environment()["PERDURE_MONGODB_URI"]
    with database(uri) as db:
        db.notebook.create_indexes(INDEXES)
        db.notebook.insert_many([entry for entries in evidence.history.values() for entry in entries])
        assert history_of(db)[0] == evidence.history
        fork = evidence.history[R][4] | {"_id": "fork", "checkpoint_id": "0005"}
        with pytest.raises(DuplicateKeyError):
            db.notebook.insert_one(dict(fork))
        db.notebook.drop_index(INDEXES[0].document["name"])
        db.notebook.insert_one(dict(fork))
        evidence.history, evidence.notes = history_of(db)
    broken = check(evidence, SEED).broken()
    assert {"sequence without gaps", "every step once", "no fork"} <= broken
