"""A consumer that never comes back, to be killed: BOOTSTRAP TOPIC GROUP handler; or that must notice it: ... client."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence

from confluent_kafka import Message

from perdure.chassis.kafka import raw
from perdure.chassis.kafka.consumer import Consumer, Subscription
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.service import run_service
from perdure.chassis.settings import ServiceSettings
from perdure.schemas.commands import COMMANDS
from perdure.schemas.envelope import Decoded
from perdure.schemas.topics import Topic


async def handle(batch: Sequence[Decoded]) -> None:
    print("handling", *(decoded.envelope.id for decoded in batch), flush=True)
    await asyncio.Event().wait()


class Hanging(Consumer):
    def _take(self) -> list[Message]:
        threading.Event().wait()
        raise AssertionError


async def main(kind: type[Consumer]) -> None:
    bootstrap, topic, group = sys.argv[1:4]
    producer = Producer(bootstrap, "victim")
    await kind(bootstrap, "victim", Subscription(Topic(topic, 1), group, COMMANDS), handle, producer).run()


async def serve(_: ServiceSettings, __: asyncio.Event) -> None:
    await main(Hanging)


if sys.argv[4] == "handler":
    asyncio.run(main(Consumer))
else:
    raw.STALLED_S = 3.0
    run_service("victim", ServiceSettings, serve)
