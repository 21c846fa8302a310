"""The last look before an act: through every service, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

from perdure.chassis.kafka.producer import Producer
from perdure.chassis.signatures import Signatures
from perdure.schemas.envelope import encode
from perdure.schemas.topics import VERDICTS
from perdure.schemas.validation import Finding, PremisesValidated, Verdict, VerdictOutcome

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    file = tmp_path / "world.json"
    file.write_text(json.dumps({"price": 10}))
    return file


def ended(system: Any, *runs: Any, timeout_s: float = 60) -> list[list[Any]]:
    """The logs of the threads once each has come to its end."""
    threads = [run["thread_id"] for run in runs]

    def done() -> bool:
        found = list(system.db.threads.find({"_id": {"$in": threads}}))
        over = len(found) == len(threads) and all(not t["interrupts"] and not t["next"] for t in found)
        return over and not system.db.runs.count_documents({"thread_id": {"$in": threads}, "settled": False})

    until_blocking(done, "all agents have ended", timeout_s)
    return [system.values(thread)["log"] for thread in threads]


def open_waits(system: Any, *runs: Any) -> list[Any]:
    threads = [run["thread_id"] for run in runs]
    return list(system.db.waits.find({"thread_id": {"$in": threads}, "status": "open"}))


def started(system: Any, world: Path, **more: Any) -> Any:
    return system.start("validating", {"file": str(world), **more})


def test_the_graph_goes_where_the_verdict_leads(system: Any, world: Path, opensearch_url: str, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"price": 12}))
    runs = {
        "proceed": started(system, world),
        "stale": started(system, other),
        "unknown": started(system, tmp_path / "none.json"),
        "ask": started(system, other, on_violation="ask"),
        "not configured": started(system, world, kind="query"),
        "never read": started(system, world, kind="held", timeout_s=2),
    }
    logs = dict(zip(runs, ended(system, *runs.values()), strict=True))
    waits = {name: next(system.db.waits.find({"thread_id": run["thread_id"]})) for name, run in runs.items()}
    assert logs["proceed"] == [["proceed", 10, waits["proceed"]["_id"], "every premise holds"], "act"]
    reason = "price: believed 10, found 12: more than 1 % away"
    assert logs["stale"] == [["stale", 12, waits["stale"]["_id"], reason], "refuse"]
    assert logs["ask"] == [["ask", 12, waits["ask"]["_id"], reason], "ask"]
    assert logs["unknown"][0][0] == "unknown"
    assert "FileNotFoundError" in logs["unknown"][0][3]
    assert "no MongoDB connection 'nowhere'" in logs["not configured"][0][3]
    assert logs["never read"][0][0] == "unknown"
    assert [logs[name][1] for name in ("unknown", "not configured", "never read")] == ["blind"] * 3
    assert waits["proceed"]["outcome"]["payload"]["findings"][0]["fresh"] == 10
    threads = [run["thread_id"] for run in runs.values()]
    assert system.db.runs.count_documents({"thread_id": {"$in": threads}}) == 2 * len(runs), "a thread was woken twice"
    system.assert_linear(threads)
    system.assert_indexed(opensearch_url, threads)
    Path(f"{world}.go").touch()


def test_a_killed_validator_leaves_nobody_without_a_verdict(system: Any, world: Path) -> None:
    runs = [started(system, world, kind="held") for _ in range(20)]
    until_blocking(lambda: len(open_waits(system, *runs)) == len(runs), "every run waits for a verdict")
    asked = Path(f"{world}.asked")
    until_blocking(lambda: asked.exists() and asked.stat().st_size >= 8, "eight requests of the validator")
    validator = system.services["validator"]
    validator.kill()
    assert not validator.running
    assert len(open_waits(system, *runs)) == len(runs)
    Path(f"{world}.go").touch()
    validator.start()
    logs = ended(system, *runs, timeout_s=90)
    assert Counter((log[0][0], log[1]) for log in logs) == {("proceed", "act"): len(runs)}
    threads = [run["thread_id"] for run in runs]
    assert system.db.runs.count_documents({"thread_id": {"$in": threads}}) == 2 * len(runs), "a thread was woken twice"
    system.assert_linear(threads)


def verdict_on(
    signatures: Signatures,
    wait: Any,
    outcome: VerdictOutcome,
    digest: str,
    wait_id: str | None = None,
    ahead: timedelta = timedelta(0),
) -> Any:
    """A verdict as a validator would publish it whose clock is so much ahead."""
    now = datetime.now(UTC) + ahead
    finding = Finding(name="price", holds=None, reason="as the test says", read_at=now, outcome=outcome)
    message = PremisesValidated(
        tenant=wait["tenant"],
        thread_id=wait["thread_id"],
        run_id=wait["run_id"],
        wait_id=wait_id or wait["_id"],
        verdict=Verdict(
            outcome=outcome,
            findings=(finding,),
            action_digest=digest,
            read_at=now,
            expires_at=now + timedelta(seconds=60),
        ),
    )
    record = encode(message, id=f"{wait['_id']}:verdict", source="test", correlation_id=wait["run_id"], time=now)
    return signatures.signed(VERDICTS.name, record)


def test_a_verdict_wakes_once_and_only_for_its_action(system: Any, world: Path, kafka_bootstrap: str) -> None:
    run = started(system, world, kind="held")
    (wait,) = until_blocking(lambda: open_waits(system, run), "the run waits for a verdict")
    right, wrong = wait["validation"]["action_digest"], "0" * 64

    async def publish() -> None:
        producer = Producer(kafka_bootstrap, "test")
        await producer.send(VERDICTS.name, verdict_on(system.signatures, wait, VerdictOutcome.PROCEED, wrong))
        await producer.send(
            VERDICTS.name, verdict_on(system.signatures, wait, VerdictOutcome.PROCEED, right, f"{uuid.uuid4()}:none")
        )
        for _ in range(20):
            await producer.send(VERDICTS.name, verdict_on(system.signatures, wait, VerdictOutcome.STALE, right))
        await producer.close()

    asyncio.run(publish())
    (log,) = ended(system, run)
    assert log == [["stale", None, wait["_id"], "price: as the test says"], "refuse"]
    Path(f"{world}.go").touch()
    asyncio.run(publish())
    marker = started(system, world)
    ended(system, marker)
    assert system.values(run["thread_id"])["log"] == log
    assert system.db.runs.count_documents({"thread_id": run["thread_id"]}) == 2
    system.assert_linear([run["thread_id"]])


def test_a_validator_whose_clock_is_ahead_makes_no_verdict_last_longer(
    system: Any, world: Path, kafka_bootstrap: str
) -> None:
    run = started(system, world, kind="held")
    (wait,) = until_blocking(lambda: open_waits(system, run), "the run waits for a verdict")
    record = verdict_on(
        system.signatures, wait, VerdictOutcome.PROCEED, wait["validation"]["action_digest"], ahead=timedelta(hours=1)
    )

    async def publish() -> None:
        producer = Producer(kafka_bootstrap, "test")
        await producer.send(VERDICTS.name, record)
        await producer.close()

    asyncio.run(publish())
    ended(system, run)
    outcome = system.db.waits.find_one({"_id": wait["_id"]})["outcome"]
    lasts = datetime.fromisoformat(outcome["expires_at"]) - datetime.fromisoformat(outcome["at"])
    assert lasts == timedelta(seconds=wait["validation"]["verdict_expires_s"])
    Path(f"{world}.go").touch()
