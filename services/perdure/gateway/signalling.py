"""Accepting a signal, whichever way it comes: as JSON over HTTP, or by mail.

Contract: a signal is durable when :func:`accept` returns; what hinders its delivery after that is left to the scheduler's sweep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perdure.chassis.telemetry import logger
from perdure.gateway.context import Context
from perdure.registry.signals import Stored
from perdure.schemas.documents import SignalDocument

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A signal that is durable.

    Attributes:
        signal: As it is now, or as it was when its delivery was left to the sweep.
        replayed: It was there already, with the same id.

    """

    signal: Mapping[str, Any]
    replayed: bool


async def accept(context: Context, signal: SignalDocument) -> Accepted:
    """Store a signal, unless one with its id is there, and offer it to the open waits of its thread.

    Raises:
        RequestProblem: ``store-unavailable``.

    """
    context.store.require_available()
    stored = await context.store.within(context.signals.store(signal))
    kept: Mapping[str, Any] = stored.signal
    return Accepted(kept if kept["offered"] else await _deliver(context, stored), replayed=stored.earlier)


async def _deliver(context: Context, stored: Stored) -> Mapping[str, Any]:
    """Give a stored signal to the wait that it is for; the signal as it is afterwards, or as it was when that fails."""
    signal = stored.signal
    try:
        async with asyncio.timeout(context.store.timeout_s):
            if await context.signals.deliver(stored):
                return {**signal, "offered": True}
            return await context.inbox.signal(signal["_id"]) or signal
    except Exception as error:  # it is durable, so the answer is 202; the sweep offers it again
        log.warning("gateway.signal_left_to_sweep", signal_id=signal["_id"], reason=repr(error))
        return signal
