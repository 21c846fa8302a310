"""Asking workers to tell what a run's nodes say while they run, where the run was started without that.

Contract: fire and forget, as every command of the gateway; at most once in ``AGAIN_S`` for the same run and modes.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.gateway.stores.commands import SOURCE, publish
from perdure.registry.runs import new_traceparent
from perdure.schemas.commands import StreamRun
from perdure.schemas.documents import RunStatus
from perdure.schemas.envelope import encode
from perdure.schemas.stream import EPHEMERAL_MODES

MESSAGES: Final = frozenset({"messages", "messages-tuple"})
AGAIN_S: Final = 5.0
REMEMBERED: Final = 10_000


class Asking:
    """Belongs to one event loop."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._asked: OrderedDict[tuple[str, frozenset[str], bool, int], float] = OrderedDict()

    def ask(
        self, run: Mapping[str, Any], modes: frozenset[str], *, subgraphs: bool, started: Mapping[str, Any], seq: int
    ) -> None:
        """Ask that the run's worker tells these modes, unless it does already.

        Args:
            run: Its document.
            modes: What is read.
            subgraphs: Whether what subgraphs say is read.
            started: ``stream`` of the run's payload: what workers tell in any case.
            seq: The entry with which the worker began, or any number before: it is asked once for each.

        """
        wanted = modes & EPHEMERAL_MODES
        if not RunStatus(run["status"]).active or not _is_more(wanted, started, subgraphs=subgraphs):
            return
        key = (run["_id"], wanted, subgraphs, seq)
        if time.monotonic() - self._asked.get(key, float("-inf")) < AGAIN_S:
            return
        self._asked[key] = time.monotonic()
        if len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)
        message = StreamRun(
            tenant=run["tenant"],
            thread_id=run["thread_id"],
            run_id=run["_id"],
            modes=tuple(sorted(wanted)),
            subgraphs=subgraphs,
        )
        record = encode(
            message,
            id=f"{run['_id']}:stream:{','.join(message.modes)}{':subgraphs' if subgraphs else ''}",
            source=SOURCE,
            correlation_id=run["_id"],
            traceparent=run.get("traceparent") or new_traceparent(),
            time=now(),
        )
        publish(self._producer, record)


def _is_more(wanted: frozenset[str], started: Mapping[str, Any], *, subgraphs: bool) -> bool:
    """Whether this is more than what workers tell of the run in any case; both forms of messages are one to them."""
    told = frozenset(started.get("modes") or ())
    more = wanted - told
    if told & MESSAGES:
        more -= MESSAGES
    return bool(more) or (bool(wanted) and subgraphs and not started.get("subgraphs"))
