"""How late the event loop is: what a request waits for because of what other requests do."""

from __future__ import annotations

import asyncio
from typing import Final

from prometheus_client import Histogram

EVERY_S: Final = 0.05

DELAY = Histogram(
    "perdure_event_loop_delay_seconds",
    "How much later than asked for the event loop ran a timer.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)


async def measure_delay() -> None:
    """Observe the delay for ever."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + EVERY_S
        await asyncio.sleep(EVERY_S)
        DELAY.observe(max(0.0, loop.time() - due))
