"""A consumer that never comes back from its handler, to be killed: BOOTSTRAP TOPIC GROUP."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from perdure.chassis.kafka.consumer import Consumer, Subscription
from perdure.chassis.kafka.producer import Producer
from perdure.schemas.commands import COMMANDS
from perdure.schemas.envelope import Decoded
from perdure.schemas.topics import Topic


async def handle(batch: Sequence[Decoded]) -> None:
    print("handling", *(decoded.envelope.id for decoded in batch), flush=True)
    await asyncio.Event().wait()


async def main(bootstrap: str, topic: str, group: str) -> None:
    producer = Producer(bootstrap, "victim")
    await Consumer(bootstrap, "victim", Subscription(Topic(topic, 1), group, COMMANDS), handle, producer).run()


asyncio.run(main(*sys.argv[1:]))
