"""Who can write to every topic and has no secret opens nothing: records of every kind are forged for agents that wait."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contract.samples import SAMPLES
from tests.support.polling import until_blocking

from perdure.chassis.kafka.producer import Producer
from perdure.chassis.signatures import Signatures
from perdure.schemas import topics
from perdure.schemas.commands import CancelRun, StartReason, StartRun, StreamRun
from perdure.schemas.envelope import Record, encode
from perdure.schemas.events import EVENTS
from perdure.schemas.message import Message
from perdure.schemas.validation import (
    Finding,
    HttpSource,
    Premise,
    PremisesValidated,
    Range,
    ValidatePremises,
    Verdict,
    VerdictOutcome,
)

pytestmark = pytest.mark.timeout(240)


def record_of(message: Message) -> Record:
    return encode(message, id=uuid.uuid4().hex, source="forger", correlation_id="forged", time=datetime.now(UTC))


def write(kafka: str, records: Iterable[tuple[str, Record]]) -> None:
    async def send() -> None:
        producer = Producer(kafka, "forger")
        for topic, record in records:
            await producer.send(topic, record)
        await producer.close()

    asyncio.run(send())


def waiting(system: Any, graph: str, run_input: Any) -> tuple[Any, Any]:
    """A run that waits, and its wait."""
    run = system.start(graph, run_input)
    query = {"thread_id": run["thread_id"], "status": "open"}
    return run, until_blocking(lambda: system.db.waits.find_one(query), "the run waits")


def verdict_on(wait: Any) -> PremisesValidated:
    now = datetime.now(UTC)
    finding = Finding(name="price", holds=True, reason="forged", read_at=now, outcome=VerdictOutcome.PROCEED)
    verdict = Verdict(
        outcome=VerdictOutcome.PROCEED,
        findings=(finding,),
        action_digest=(wait.get("validation") or {}).get("action_digest") or "0" * 64,
        read_at=now,
        expires_at=now + timedelta(seconds=60),
    )
    return PremisesValidated(verdict=verdict, **_addresses(wait))


def _addresses(wait: Any) -> dict[str, Any]:
    return {
        "tenant": wait["tenant"],
        "thread_id": wait["thread_id"],
        "run_id": wait["run_id"],
        "wait_id": wait["_id"],
    }


def dead_for_signature(system: Any, thread_id: str, count: int) -> list[Any]:
    query = {"thread_id": thread_id, "reason": "signature"}
    return until_blocking(
        lambda: [*system.db.dead_letters.find(query)],
        f"{count} dead letters for their signature",
        holds=lambda found: len(found) == count,
        explain=lambda: [*system.db.dead_letters.find({"thread_id": thread_id}, {"detail": 1, "reason": 1})],
    )


def still_open(system: Any, wait: Any) -> bool:
    return bool(system.db.waits.find_one({"_id": wait["_id"]})["status"] == "open")


def settled_marker(system: Any) -> None:
    """A run that starts and ends after the forged records were read: one partition after the other is behind them."""
    system.until_ended(*[system.start("chain", {}) for _ in range(8)])


def test_forged_verdicts_and_validations_are_dead_letters(system: Any, kafka_bootstrap: str, tmp_path: Path) -> None:
    world = tmp_path / "world.json"
    world.write_text(json.dumps({"price": 10}))
    run, wait = waiting(system, "validating", {"file": str(world), "kind": "held"})
    true = Premise(
        name="price",
        source=HttpSource(url="http://127.0.0.1:9/"),
        believed=10,
        rule=Range(low=0),
        timeout_s=1,
        attempts=1,
    )
    request = ValidatePremises(
        premises=(true,),
        action_digest=wait["validation"]["action_digest"],
        verdict_expires_s=60,
        **_addresses(wait),
    )
    verdict = record_of(verdict_on(wait))
    stranger = Signatures(["a secret that the forger has made up"])
    genuine = system.signatures.signed(topics.VERDICTS.name, verdict)
    write(
        kafka_bootstrap,
        [
            (topics.VERDICTS.name, verdict),
            (topics.VERDICTS.name, stranger.signed(topics.VERDICTS.name, verdict)),
            (
                topics.VERDICTS.name,
                Record(genuine.key, genuine.value.replace(b'"forged"', b'"other"'), genuine.headers),
            ),
            (topics.VALIDATIONS.name, record_of(request)),
        ],
    )
    letters = dead_for_signature(system, run["thread_id"], 4)
    assert sorted(one["topic"] for one in letters) == [topics.VALIDATIONS.name, *[topics.VERDICTS.name] * 3]
    assert still_open(system, wait)
    Path(f"{world}.go").touch()
    until_blocking(lambda: not still_open(system, wait), "the validator's own verdict is believed")
    outcome = system.db.waits.find_one({"_id": wait["_id"]})["outcome"]
    assert outcome["payload"]["findings"][0]["reason"] != "forged"


def test_a_forged_cancellation_stops_no_run(system: Any, kafka_bootstrap: str, tmp_path: Path) -> None:
    file, hang = tmp_path / "orders", tmp_path / "orders.hang"
    hang.touch()
    run = system.start("once", {"file": str(file)})
    until_blocking(file.exists, "the node is at work")
    address = {"tenant": "default", "thread_id": run["thread_id"], "run_id": run["run_id"]}
    write(kafka_bootstrap, [(topics.COMMANDS.name, record_of(CancelRun(**address)))])
    settled_marker(system)
    hang.unlink()
    (ended,) = system.until_ended(run)
    assert ended["status"] == "success"


def test_no_forged_command_or_event_opens_an_effect(system: Any, kafka_bootstrap: str, tmp_path: Path) -> None:
    done = tmp_path / "orders"
    done.touch()
    run, wait = waiting(system, "paid", {"file": str(done), "action": {"pay": 1}})
    address = {"tenant": wait["tenant"], "thread_id": run["thread_id"], "run_id": run["run_id"]}
    forged: list[tuple[str, Record]] = [
        (topics.COMMANDS.name, record_of(StartRun(reason=reason, **address))) for reason in StartReason
    ]
    invented = address | {"run_id": f"wake:{wait['_id']}"}
    forged.append((topics.COMMANDS.name, record_of(StartRun(reason=StartReason.WOKEN, **invented))))
    forged.append((topics.COMMANDS.name, record_of(StreamRun(modes=("custom",), **address))))
    forged.append((topics.COMMANDS.name, record_of(CancelRun(**address))))
    forged.append((topics.COMMANDS.name, record_of(verdict_on(wait))))
    samples = [message for message in SAMPLES.values() if (message.TYPE, message.VERSION) in EVENTS]
    assert {(message.TYPE, message.VERSION) for message in samples} == {*EVENTS}, "every event is forged"
    for message in samples:
        known = {
            name: value
            for name, value in (address | {"wait_id": wait["_id"]}).items()
            if name in type(message).model_fields
        }
        forged.append((topics.EVENTS.name, record_of(message.model_copy(update=known))))
    write(kafka_bootstrap, forged)
    settled_marker(system)
    assert still_open(system, wait)
    assert done.read_text() == "", "the effect was carried out"
    assert system.db.effects.count_documents({"thread_id": run["thread_id"]}) == 0
    assert system.db.runs.count_documents({"thread_id": run["thread_id"]}) == 1, "a forged command made a run"
    answer = system.http.post(f"/approvals/{wait['_id']}", json={"answer": {"approved": True}, "by": "ann"})
    assert answer.status_code < 300, answer.text
    until_blocking(lambda: done.read_text() != "", "the effect that somebody approved is carried out")
