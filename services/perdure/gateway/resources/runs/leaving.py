"""Cancelling a run because the client that waited for it went away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.telemetry import logger
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.stores.commands import cancel_record, publish
from perdure.gateway.stores.store import Store

log = logger(__name__)


async def cancel_left(store: Store, producer: Producer, run: Mapping[str, Any]) -> None:
    """Ask for the end of a run; nothing happens where it has ended, or while the database is away."""
    try:
        asked = await store.request_cancel(run["_id"], run["thread_id"], run["tenant"], now())
    except RequestProblem as problem:
        log.warning("gateway.run_not_cancelled", run_id=run["_id"], error=str(problem))
        return
    if asked:
        publish(producer, cancel_record(run, run["traceparent"]))
