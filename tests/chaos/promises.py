"""The promises, one function each: held against what the stores say, thread by thread. Pure.

Contract: a function looks at all of the evidence and tells :class:`Findings` of everything that it looked at, broken or not;
a broken one names the thread and what was found. A function never raises on damaged evidence: a missing field is a finding, too.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tests.chaos.agents import Agent, agent
from tests.chaos.evidence import FENCE, Evidence, Found, by_thread, checkpoints_of, ends_of, entry_id
from tests.chaos.findings import Findings
from tests.chaos.streams import streams_complete

ENDED = ("success", "error", "timeout", "interrupted", "cancelled")
CLOCKS_S = 0.5
"""Between the clock of the database and ours."""
LATE = timedelta(seconds=5)
"""A wait may be past its time for so long before it counts as forgotten."""


Promise = Callable[[Evidence, Findings], None]


def sequence_without_gaps(evidence: Evidence, found: Findings) -> None:
    """Every sequence number of a thread once, from 1 on, without gaps (fences count)."""
    for thread, entries in evidence.history.items():
        numbers = Counter(one.get("seq") for one in entries)
        twice = [number for number, count in numbers.items() if count > 1]
        found.hold(not twice, thread, "sequence numbers {} are there more than once", twice[:5])
        missing = sorted(set(range(1, len(numbers) + 1)) - set(numbers))
        found.hold(not missing, thread, "sequence numbers {} are missing; there are {}", missing[:5], len(numbers))


def every_step_once(evidence: Evidence, found: Findings) -> None:
    """A step of a run is checkpointed once in each namespace."""
    for thread, entries in evidence.history.items():
        steps = Counter((one["ns"], one["run"], one["step"]) for one in checkpoints_of(entries))
        twice = [step for step, count in steps.items() if count > 1]
        found.hold(not twice, thread, "(namespace, run, step) {} more than once", twice[:3])


def no_fork(evidence: Evidence, found: Findings) -> None:
    """A checkpoint has one child at most, and the newest of the root namespace follow one another."""
    for thread, entries in evidence.history.items():
        checkpoints = checkpoints_of(entries)
        children = Counter((one["ns"], one.get("parent")) for one in checkpoints if one.get("parent"))
        forks = [parent for parent, count in children.items() if count > 1]
        found.hold(not forks, thread, "checkpoints {} have more than one child", forks[:3])
        root = sorted((one for one in checkpoints if one["ns"] == ""), key=lambda one: str(one["checkpoint_id"]))
        for before, one in zip([None, *root], root, strict=False):
            wanted = before["checkpoint_id"] if before else None
            if not found.hold(
                one.get("parent") == wanted, thread, "{} does not follow {}", one["checkpoint_id"], wanted
            ):
                break


def order_of_checkpoints(evidence: Evidence, found: Findings) -> None:
    """The order of sequence numbers is the order of the root checkpoints."""
    for thread, entries in evidence.history.items():
        ids = [str(one["checkpoint_id"]) for one in checkpoints_of(entries) if one["ns"] == ""]
        found.hold(ids == sorted(ids), thread, "root checkpoints are not in the order of their sequence numbers")


def starts_kept(evidence: Evidence, found: Findings) -> None:
    """Every acknowledged start is a run of its key and thread, has ended, and has not failed."""
    keys = Counter(run.get("idempotency_key") for run in evidence.runs.values())
    for start in evidence.acknowledged("start"):
        thread, run = start["thread"], evidence.runs.get(start["run"])
        if not found.hold(run is not None, thread, "run {} was acknowledged and is not there", start["run"]) or not run:
            continue
        same = run["thread_id"] == thread and run.get("idempotency_key") == start["key"] and keys[start["key"]] == 1
        found.hold(same, thread, "run {} is not the one of key {}, or not the only one", run["_id"], start["key"])
        ended = run["status"] in ("success", "interrupted")
        found.hold(ended, thread, "run {} is {}: {}", run["_id"], run["status"], run.get("error"))
        found.hold(thread in evidence.threads, thread, "was acknowledged and is not there")


def finished_or_waiting(evidence: Evidence, found: Findings) -> None:
    """Every thread has finished, or is at open waits that are not overdue and that no signal is there for."""
    waits, signals = by_thread(evidence.waits), by_thread(evidence.signals)
    for thread, document in evidence.threads.items():
        opened = [one for one in waits.get(thread, []) if one["status"] == "open"]
        interrupts = document.get("interrupts") or []
        if not interrupts:
            found.hold(not document.get("next"), thread, "stands at {} and waits for nothing", document.get("next"))
            found.hold(not opened, thread, "has finished, and {} is still open", [one["_id"] for one in opened][:2])
            continue
        ids = {f"{thread}:{one['id']}" for one in interrupts}
        found.hold(ids == {one["_id"] for one in opened}, thread, "stands at {}; open are {}", ids, opened)
        free = {one["name"] for one in signals.get(thread, []) if one["state"] == "free"}
        for wait in opened:
            there = free & set(wait.get("events") or ())
            found.hold(not there, thread, "waits for {}, which was sent", there)


def waits_end_once(evidence: Evidence, found: Findings) -> None:
    """A wait that is over has one outcome and one run that went on with it; an open one has none and is not overdue."""
    waking: dict[str, list[Found]] = defaultdict(list)
    for run in evidence.runs.values():
        if "wait_id" in run:
            waking[run["wait_id"]].append(run)
            found.hold(run["wait_id"] in evidence.waits, run["thread_id"], "run {} ends no known wait", run["_id"])
    for wait, document in evidence.waits.items():
        thread, runs = document["thread_id"], waking[wait]
        went_on = [run["_id"] for run in runs if run["status"] in ("success", "interrupted")]
        found.hold(len(went_on) <= 1, thread, "wait {} was ended by {}", wait, went_on)
        if document["status"] == "answered":
            known = document.get("woken_by") in {run["_id"] for run in runs} and bool(document.get("outcome"))
            found.hold(known, thread, "wait {} has ended and its run {} is not there", wait, document.get("woken_by"))
        elif document["status"] == "open":
            found.hold(not runs, thread, "wait {} is open, and run {} ended it", wait, [run["_id"] for run in runs])
            due = document.get("due_at")
            found.hold(due is None or due > evidence.now - LATE, thread, "wait {} is overdue since {}", wait, due)


def signals_once(evidence: Evidence, found: Findings) -> None:
    """An acknowledged signal is there once; a signal ends one wait at most, and the wait that took it was ended by it."""
    sent: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in evidence.acknowledged("signal"):
        sent[one["thread"], one["name"]].add(one["key"])
    stored = Counter((one["thread_id"], one["name"]) for one in evidence.signals.values())
    for (thread, name), keys in sent.items():
        there = stored[thread, name]
        found.hold(there == len(keys), thread, "{} signals {} were acknowledged, {} are there", len(keys), name, there)
    ended: dict[str, list[str]] = defaultdict(list)
    for wait in evidence.waits.values():
        signal = (wait.get("outcome") or {}).get("signal_id")
        if signal:
            ended[signal].append(wait["_id"])
    for signal, waits in ended.items():
        thread = waits[0].partition(":")[0]
        found.hold(len(waits) == 1, thread, "signal {} ended {}", signal, waits)
        found.hold(signal in evidence.signals, thread, "signal {} ended {} and is not there", signal, waits[0])
    for signal, document in evidence.signals.items():
        taken = document.get("taken_by") if document["state"] == "taken" else None
        same = ended.get(signal, []) == ([taken] if taken else [])
        found.hold(
            same, document["thread_id"], "signal {} is taken by {}; it ended {}", signal, taken, ended.get(signal)
        )


def expected_outcome(evidence: Evidence, found: Findings, seed: int) -> None:
    """The final state of an agent is as if nothing had failed."""
    for number, thread in _agents(evidence).items():
        one = agent(seed, number)
        log = evidence.logs.get(thread)
        if one.expect:
            found.hold(as_expected(one, log), thread, "agent {} ({}): {}, not {}", number, one.graph, log, one.expect)
        else:
            waits = [w for w in evidence.waits.values() if w["thread_id"] == thread and w["status"] == "open"]
            found.hold(len(waits) == 1, thread, "agent {} ({}) should wait: {}", number, one.graph, log)


def as_expected(one: Agent, log: list[str] | None) -> bool:
    """Whether a final log is one of those that an agent may end with."""
    if log is None:
        return False
    if one.ordered:
        return tuple(log) in one.expect
    return sorted(log) in [sorted(expected) for expected in one.expect]


def _agents(evidence: Evidence) -> dict[int, str]:
    """Thread by agent."""
    return {one["agent"]: one["thread"] for one in evidence.acknowledged("start")}


def answers_once(evidence: Evidence, found: Findings) -> None:
    """An accepted answer ended its question, and no question has two."""
    accepted = Counter(one["approval"] for one in evidence.acknowledged("answer") if one["status"] < 300)
    for one in evidence.acknowledged("answer"):
        wait = evidence.waits.get(one["approval"])
        outcome = (wait or {}).get("outcome") or {}
        right = outcome.get("kind") == "answer" and (outcome.get("payload") or {}).get("n") == one["n"]
        found.hold(
            right, one["thread"], "question {} was answered {} and ended with {}", one["approval"], one["n"], outcome
        )
        found.hold(accepted[one["approval"]] <= 1, one["thread"], "question {} took two answers", one["approval"])


def events_published(evidence: Evidence, found: Findings) -> None:
    """Kafka has the event of every stored change at least once, and of nothing else."""
    for thread, entries in evidence.history.items():
        notes = evidence.notes.get(thread, [])
        stored = {entry_id(one) for one in [*entries, *notes] if one["kind"] != FENCE}
        published = set(evidence.events.get(thread, []))
        lost, extra = stored - published, published - stored
        found.hold(not lost, thread, "events {} were never published", sorted(lost)[:5])
        found.hold(not extra, thread, "events {} are of nothing that is stored", sorted(extra)[:5])


def events_in_order(evidence: Evidence, found: Findings) -> None:
    """Of each thread the first publications are in the order of its history."""
    for thread, ids in evidence.events.items():
        first = [int(one.rpartition(":")[2]) for one in dict.fromkeys(ids) if one.rpartition(":")[2].isdigit()]
        wrong = [(a, b) for a, b in itertools.pairwise(first) if a > b]
        found.hold(not wrong, thread, "first published out of order: {}", wrong[:3])


def index_is_store(evidence: Evidence, found: Findings) -> None:
    """The states index has one document for each stored change, and no other."""
    indexed: dict[str, Counter[str]] = defaultdict(Counter)
    for document, thread in evidence.states:
        indexed[thread][document] += 1
    for thread in {*evidence.history, *indexed}:
        entries = [*evidence.history.get(thread, []), *evidence.notes.get(thread, [])]
        stored = {entry_id(one) for one in entries if one["kind"] != FENCE}
        there = indexed.get(thread, Counter())
        found.hold(stored <= set(there), thread, "not indexed: {}", sorted(stored - set(there))[:5])
        found.hold(set(there) <= stored, thread, "indexed and not stored: {}", sorted(set(there) - stored)[:5])
        twice = [one for one, count in there.items() if count > 1]
        found.hold(not twice, thread, "indexed twice: {}", twice[:5])


def newest_is_indexed(evidence: Evidence, found: Findings) -> None:
    """The threads index has one document for each thread, and it is the newest."""
    indexed: dict[str, list[Found]] = defaultdict(list)
    for _, document in evidence.newest:
        indexed[document["thread_id"]].append(document)
    for thread, entries in evidence.history.items():
        notes = evidence.notes.get(thread, [])
        numbers = [one["seq"] for one in entries if one["kind"] != FENCE] + [one["after"] for one in notes]
        newest = max(numbers, default=0)  # a note may stand after a fence
        there = [one.get("seq") for one in indexed.get(thread, [])]
        found.hold(there == [newest], thread, "the newest is {}, the index has {}", newest, there)


def every_run_owned(evidence: Evidence, found: Findings) -> None:
    """No run is left: pending, running without a living owner, or ended and not settled."""
    alive = {name for name, worker in evidence.workers.items() if worker.get("state") == "alive"}
    for run in evidence.runs.values():
        thread, status = run["thread_id"], run["status"]
        found.hold(status != "pending", thread, "run {} is pending", run["_id"])
        owned = status != "running" or run.get("owner") in alive
        found.hold(owned, thread, "run {} is running, and its owner {} is dead", run["_id"], run.get("owner"))
        found.hold(
            status == "pending" or run.get("settled") is True, thread, "run {} ({}) is not settled", run["_id"], status
        )


def none_idle(evidence: Evidence, found: Findings) -> None:
    """While the run went on, no run that a living worker owned stood still; the looks were enough to see one."""
    samples = evidence.samples
    found.hold(samples.looks > 0, "", "nobody looked while the run went on")
    found.hold(samples.failed is None, "", "the looks ended: {}", samples.failed)
    found.checked += samples.runs
    for one in samples.idle:
        what = "run {} (epoch {}) stood still for {} s under {}, which lived"
        found.hold(False, one["thread_id"], what, one["run_id"], one["epoch"], one["seconds"], one["owner"])


def ends_recorded(evidence: Evidence, found: Findings) -> None:
    """An ended run has one end in its thread's history, and its document says the same."""
    ends: dict[str, list[Found]] = defaultdict(list)
    for entries in evidence.history.values():
        for one in ends_of(entries):
            ends[one["run"]].append(one)
    for run in evidence.runs.values():
        if run["status"] not in ENDED:
            continue
        seen = [(one["event"], one["seq"]) for one in ends[run["_id"]]]
        wanted = [(run["status"], run.get("ended_seq"))]
        found.hold(seen == wanted, run["thread_id"], "run {} says {}, its history {}", run["_id"], wanted, seen)


def one_run_at_a_time(evidence: Evidence, found: Findings) -> None:
    """The entries of two runs of a thread do not mix."""
    for thread, entries in evidence.history.items():
        kept = [one["run"] for one in entries if one["kind"] != FENCE]
        changes = sum(a != b for a, b in itertools.pairwise(kept))
        order = list(dict.fromkeys(kept))
        found.hold(not kept or changes + 1 == len(order), thread, "runs {} are mixed in its history", order[:4])


def effects_once(evidence: Evidence, found: Findings, seed: int) -> None:
    """Every effect that had to happen was applied once in the world, with one key; one that was refused, never."""
    applied: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for one in evidence.world:
        if one["applied"]:
            applied[one["thread"], one["effect"]].append(one)
    for number, thread in _agents(evidence).items():
        one = agent(seed, number)
        for name in one.effects:
            count = len(applied[thread, name])
            found.hold(
                count == 1, thread, "agent {} ({}): effect {} was applied {} times", number, one.graph, name, count
            )
            kept = evidence.effects.get(f"{thread}:{name}") or {}
            found.hold(kept.get("state") == "done", thread, "effect {} is {}", name, kept.get("state"))
            again = [more for more in kept.get("more_receipts") or () if not more.get("same")]
            found.hold(not again, thread, "effect {} has two receipts", name)
        for name in one.no_effects:
            count = len(applied[thread, name])
            found.hold(count == 0, thread, "agent {} ({}): effect {} was refused and applied", number, one.graph, name)


def never_after_a_receipt(evidence: Evidence, found: Findings) -> None:
    """Nothing arrives in the world for an effect whose receipt is recorded."""
    for one in evidence.world:
        done = (evidence.effects.get(one["key"]) or {}).get("done_at")
        late = done is not None and one["at"] > done.timestamp() + CLOCKS_S
        found.hold(not late, one["thread"], "effect {} was attempted at {} after its receipt", one["key"], one["at"])


def notices_told(evidence: Evidence, found: Findings) -> None:
    """Of every run that ended, the world was told once or more under one id, and of nothing else."""
    kinds = {"success": "completed", "error": "failed", "timeout": "timed_out"}
    told: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for one in evidence.deliveries.values():
        told[one["run_id"], one["kind"]].append(one)
    arrived = {one["hook"] for one in evidence.hooks}
    for run in evidence.runs.values():
        if run["status"] not in kinds:
            continue
        there = told[run["_id"], kinds[run["status"]]]
        states = [one["state"] for one in there]
        found.hold(states == ["delivered"], run["thread_id"], "the notices of run {} are {}", run["_id"], states)
        missed = [one["_id"] for one in there if one["_id"] not in arrived]
        found.hold(not missed, run["thread_id"], "run {}: notices {} never arrived", run["_id"], missed)
    for hook in arrived:
        found.hold(hook in evidence.deliveries, "", "webhook {} arrived and is in no log", hook)


def poison_kept(evidence: Evidence, found: Findings) -> None:
    """A record that nobody can handle is kept as a dead letter with a reason, and no other record is."""
    for record in evidence.poisoned:
        letter = evidence.dead_letters.get(record)
        found.hold(letter is not None, "", "the record at {} is no dead letter", record)
        found.hold(not letter or bool(letter.get("reason")), "", "the dead letter of {} says no reason", record)
    for place, letter in evidence.dead_letters.items():
        found.hold(place in evidence.poisoned, "", "{} is a dead letter: {}", place, letter.get("detail"))


def only_acknowledged_or_stored(evidence: Evidence, found: Findings) -> None:
    """The driver was refused nothing that it had a right to."""
    for one in evidence.driver:
        if one["what"] == "refused":
            found.hold(False, one["path"], "{} {}: {} {}", one["method"], one["path"], one["status"], one["body"])
        else:
            found.hold(True, "", "")


def index_agrees(evidence: Evidence, found: Findings) -> None:
    """``perdure index verify``, which compares every field, finds no difference."""
    report = evidence.verified or {}
    found.hold(bool(report), "", "perdure index verify failed")
    found.checked += report.get("states", 0) + report.get("threads", 0)
    for one in report.get("differences", ()):
        found.hold(False, one["id"], "{} is {}", one["of"], one["kind"])


def promises(seed: int) -> dict[str, Promise]:
    """All of them, by the name that the table shows."""

    def with_agents(check: Any) -> Promise:
        return lambda evidence, found: check(evidence, found, seed)

    return {
        "sequence without gaps": sequence_without_gaps,
        "every step once": every_step_once,
        "no fork": no_fork,
        "checkpoints in order": order_of_checkpoints,
        "one run at a time": one_run_at_a_time,
        "acknowledged starts kept": starts_kept,
        "finished or waiting": finished_or_waiting,
        "outcome as expected": with_agents(expected_outcome),
        "waits end once": waits_end_once,
        "signals once": signals_once,
        "answers once": answers_once,
        "effects once": with_agents(effects_once),
        "no act after a receipt": never_after_a_receipt,
        "every event published": events_published,
        "events in order": events_in_order,
        "index = store": index_is_store,
        "newest state indexed": newest_is_indexed,
        "the index agrees with the database": index_agrees,
        "no run without owner": every_run_owned,
        "no owned run idle": none_idle,
        "ends recorded": ends_recorded,
        "notices told": notices_told,
        "streams complete": streams_complete,
        "dead letters as expected": poison_kept,
        "clients served": only_acknowledged_or_stored,
    }
