"""The validator's requests and verdicts through Kafka: nobody is held up, and what cannot be checked is refused alone."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.validator_stage import LIMIT, World, http_reader, opened_reader, validator_world  # noqa: F401
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.consumer import Consumer, Refused, Subscription
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.signatures import Signatures
from perdure.local.stack import Stack
from perdure.schemas import topics
from perdure.schemas.envelope import Decoded, decode, encode
from perdure.schemas.validation import (
    VALIDATIONS,
    VERDICTS,
    Equal,
    HttpSource,
    Premise,
    PremisesValidated,
    ValidatePremises,
    VerdictOutcome,
)
from perdure.validator.handlers import Validator
from perdure.validator.reading import Reader
from perdure.validator.settings import ValidatorSettings

P, S = VerdictOutcome.PROCEED, VerdictOutcome.STALE


def request(premise: Premise, wait_id: str, due_at: datetime | None = None) -> Decoded:
    message = ValidatePremises(
        tenant="t",
        thread_id=wait_id,
        run_id="run",
        wait_id=wait_id,
        premises=(premise,),
        action_digest="d",
        verdict_expires_s=60,
        due_at=due_at,
    )
    record = encode(message, id=f"{wait_id}:validate", source="test", correlation_id="run", time=now())
    return decode(record.headers, record.value, VALIDATIONS)


async def test_a_slow_source_holds_up_nobody(stack: Stack, world: World, opened: Callable[..., Reader]) -> None:
    """Through Kafka: verdicts come while others are still read; a repeat is not read twice; one too late is not read."""
    bootstrap = stack.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]
    await TopicAdmin(bootstrap).apply([topics.VERDICTS, topics.Topic(topics.VERDICTS.dead, 1)])
    run = uuid.uuid4().hex
    got: dict[str, PremisesValidated] = {}
    kept: list[Decoded] = []

    async def keep(batch: Any) -> None:
        kept.extend(batch)
        got.update({one.message.wait_id: one.message for one in batch if one.message.wait_id.startswith(run)})

    producer = Producer(bootstrap, "test")
    subscription = Subscription(topics.VERDICTS, f"test.{run}", VERDICTS)
    consumer = Consumer(bootstrap, "test", subscription, keep, producer)
    consuming = asyncio.create_task(consumer.run())
    settings = ValidatorSettings(validator_patience_s=0.2, validator_max_open=5)
    reader = opened(http=http_reader())
    validator = Validator(settings, reader, producer, Signatures([]))
    slow = Premise(name="p", source=HttpSource(url=f"{world.url}/held"), pointer="/price", believed=10)
    quick = Premise(name="p", source=HttpSource(url=f"{world.url}/price"), pointer="/price", believed=11, rule=Equal())

    began = time.monotonic()
    past = datetime.now(UTC) - timedelta(seconds=1)
    await validator.handle([request(slow, f"{run}-slow"), request(quick, f"{run}-quick"), request(quick, "late", past)])
    assert 0.15 < time.monotonic() - began < 2
    await validator.handle([request(slow, f"{run}-slow")])
    await until(lambda: f"{run}-quick" in got and validator.room() == 4, "the quick verdict, and one request open")
    assert got[f"{run}-quick"].verdict.outcome is S
    assert Counter(one.path for one in world.seen) == {"/held": 1, "/price": 1}
    world.release.set()
    await validator.drain(10)
    assert validator.room() == 5
    await until(lambda: f"{run}-slow" in got, "the slow verdict")
    assert got[f"{run}-slow"].verdict.outcome is P
    (envelope,) = (one.envelope for one in kept if one.message.thread_id == f"{run}-slow")
    assert envelope.causation_id == f"{run}-slow:validate"
    consumer.stop()
    await consuming
    await producer.close()


class Failing(Reader):
    """A reader with a mistake of ours in it, for one premise."""

    async def read(self, premise: Premise) -> Any:
        if premise.name == "bad":
            raise ZeroDivisionError("nobody divides by zero")
        return await super().read(premise)


async def test_a_request_that_cannot_be_checked_is_refused_alone(stack: Stack, world: World) -> None:
    bootstrap = stack.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]
    await TopicAdmin(bootstrap).apply([topics.VERDICTS])
    producer = Producer(bootstrap, "test")
    reader = Failing({"http": http_reader()}, 5, 5)
    validator = Validator(ValidatorSettings(validator_patience_s=20.0), reader, producer, Signatures([]))
    good = Premise(name="p", source=HttpSource(url=f"{world.url}/price"), pointer="/price", believed=10)
    run = uuid.uuid4().hex
    batch = [
        request(good, f"{run}-1"),
        request(good.model_copy(update={"name": "bad"}), f"{run}-2"),
        request(good, f"{run}-3"),
    ]
    with pytest.raises(Refused, match="ZeroDivisionError: nobody divides by zero") as refused:
        await validator.handle(batch)
    assert [one.message.thread_id for one in refused.value.records] == [f"{run}-2"]
    assert refused.value.others_done, "the others have their verdicts: they are not checked again"
    await validator.drain(10)
    assert validator.room() == ValidatorSettings().validator_max_open
    await reader.close()
    await producer.close()
