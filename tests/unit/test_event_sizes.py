"""What an event carries at most, so that Kafka takes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest
from langgraph.types import Interrupt

from perdure.agent_step.domain import bounded_interrupts, interrupt_info
from perdure.chassis.kafka.producer import KafkaRefusedError, Producer
from perdure.registry.run_events import publish_event
from perdure.schemas.envelope import Record
from perdure.schemas.events import RunInterrupted
from perdure.schemas.outbox import INTERRUPTS_LIMIT, event_of, lightened, record_of
from perdure.schemas.topics import EVENTS
from perdure.schemas.waits import Wait, WaitKind


def test_many_interrupts_fit_one_event_and_waits_keep_their_values() -> None:
    """65 values of 64 KiB each would be an event that Kafka refuses."""
    plain = [interrupt_info(Interrupt(value="x" * 65_000, id=f"i{n}")) for n in range(65)]
    wait = interrupt_info(Interrupt(value=Wait(kind=WaitKind.EVENT, events=("e" * 60_000,)).value(), id="wait"))
    bounded = bounded_interrupts([*plain, wait])
    assert [one.id for one in bounded] == [*(f"i{n}" for n in range(65)), "wait"]
    assert bounded[-1] == wait
    assert sum(len(str(one.value)) for one in bounded) <= INTERRUPTS_LIMIT
    assert sum(one in plain for one in bounded) == (INTERRUPTS_LIMIT - 60_500) // 65_002
    assert "too large for an event" in str(bounded[0].value)
    assert bounded_interrupts(plain[:3]) == (*plain[:3],)


def test_an_event_carries_no_more_than_its_topic_takes() -> None:
    """Also of what was stored before that was bounded, and when all of them are waits."""
    waits = [Wait(kind=WaitKind.EVENT, events=(f"{n}" * 50_000,)).value() for n in range(90)]
    fields = {"interrupts": [{"id": f"i{n}", "value": value} for n, value in enumerate(waits)], "next": ["a"]}
    entry = {"kind": "e", "event": "interrupted", "seq": 3, "epoch": 1, "at": datetime.now(UTC), "ev": fields}
    run = {"_id": "r", "tenant": "t", "thread_id": "th", "graph_id": "g", "assistant_id": "a"}
    event = event_of(run, entry)
    assert isinstance(event, RunInterrupted)
    assert len(record_of(run, event, "test").value) < int(EVENTS.config["max.message.bytes"])
    assert [one.id for one in event.interrupts] == [f"i{n}" for n in range(90)]
    assert event_of(run, entry) == event, "whoever publishes it publishes the same"
    assert len(record_of(run, lightened(event), "test").value) < 20_000


class RefusingOnce:
    """A producer whose first record is refused."""

    def __init__(self) -> None:
        self.taken: list[Record] = []
        self._refused = False

    async def send(self, topic: str, record: Record) -> None:
        if not self._refused:
            self._refused = True
            raise KafkaRefusedError(topic, "no")
        self.taken.append(record)


@pytest.mark.parametrize("characters", [1_000, 100_000])
async def test_only_a_large_event_goes_without_its_large_parts(characters: int) -> None:
    """A small one was refused for another reason: it is published whole later, or the index would have less than the store."""
    run: Any = {"_id": "r", "tenant": "t", "thread_id": "th", "graph_id": "g", "assistant_id": "a"}
    fields = {"interrupts": [{"id": "i", "value": "x" * characters}], "next": ["a"]}
    entry = {"kind": "e", "event": "interrupted", "seq": 3, "epoch": 1, "at": datetime.now(UTC), "ev": fields}
    event = event_of(run, entry)
    assert event is not None
    producer = RefusingOnce()
    if characters > 64 * 1024:
        await publish_event(cast("Producer", producer), run, event, "test")
        assert [len(record.value) < 20_000 for record in producer.taken] == [True]
    else:
        with pytest.raises(KafkaRefusedError):
            await publish_event(cast("Producer", producer), run, event, "test")
        assert producer.taken == []
