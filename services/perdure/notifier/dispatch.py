"""The loop that sends: claims what is due, sends it, records what came of it.

Contract: an endpoint has at most ``notifier_per_endpoint`` deliveries under way and so many more waiting here; one that fails again
and again has none (``breaker``), and what waited goes back to the queue. So a dead endpoint holds a few slots for a few
seconds, and no other endpoint's; one tenant never holds all slots. What is claimed and not recorded when this process dies is
sent again under the same message id.

Outside: matching events (``handlers``), and what is told (``preparing``, ``channels``).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final

from perdure.chassis.clock import after, now
from perdure.chassis.telemetry import logger
from perdure.notifier import metrics
from perdure.notifier.breaker import Breakers
from perdure.notifier.channels.result import Result, Send
from perdure.notifier.outcome import Attempt, change_of, state_after
from perdure.notifier.preparing import Prepared, Preparing, member_change
from perdure.notifier.queue import Queue
from perdure.notifier.settings import NotifierSettings
from perdure.registry.deliveries import shown_target
from perdure.registry.subscriptions import Subscriptions
from perdure.schemas.notices import DIGEST, DeliveryState

log = logger(__name__)

Document = dict[str, Any]

AHEAD: Final = 12
"""Deliveries that wait here for a slot of their endpoint at most, for each that is under way: one look at the queue serves many."""
SHARED: Final = 0.75
"""The part of the slots that one tenant may hold."""
LOOK: Final = 2000
"""Deliveries that one look at the queue sees."""


@dataclass(slots=True)
class _Lane:
    """One endpoint's deliveries here."""

    waiting: deque[Prepared] = field(default_factory=deque)
    sending: int = 0

    @property
    def held(self) -> int:
        return len(self.waiting) + self.sending


class Dispatcher:
    """Sends deliveries. Belongs to one event loop."""

    def __init__(
        self,
        settings: NotifierSettings,
        queue: Queue,
        preparing: Preparing,
        subscriptions: Subscriptions,
        channels: Mapping[str, Send],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._preparing = preparing
        self._subscriptions = subscriptions
        self._channels = channels
        self._clock = clock
        self._breakers = Breakers(
            settings.notifier_breaker_failures, settings.notifier_breaker_first_s, settings.notifier_breaker_cap_s
        )
        self._lanes: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._of_tenants: Counter[str] = Counter()
        """Deliveries under way."""
        self._freed = asyncio.Event()
        self._stopped = False

    async def run(self) -> None:
        """Send until :meth:`drain` is called."""
        while not self._stopped:
            taken = await self.turn()
            if not taken:
                await self._pause()
        await self._give_back()

    async def turn(self) -> int:
        """Claim what is due and fits, and begin to send; how many were claimed."""
        self._start_all()
        moment = now()
        free = self._settings.notifier_at_once * (1 + AHEAD) - sum(lane.held for lane in self._lanes.values())
        full = [name for name in self._known() if self._room(name) <= 0]
        metrics.BROKEN.set(len(self._breakers.open(self._clock())))
        if free <= 0:
            return 0
        held = self._held_by_tenant()
        most = int(self._settings.notifier_at_once * (1 + AHEAD) * SHARED)
        full_tenants = [tenant for tenant, count in held.items() if count >= most]
        found = await self._queue.due(moment, full, LOOK, without_tenants=full_tenants)
        chosen = self._choose(found, free, held, most)
        if not chosen:
            return 0
        claimed = await self._queue.claim(chosen, moment)
        for prepared in await self._preparing.prepare(claimed):
            await self._take(prepared)
        self._start_all()
        return len(claimed)

    async def drain(self, timeout_s: float) -> None:
        """Let what is being sent end, for at most so many seconds; give back what waits."""
        self._stopped = True
        self._freed.set()
        await self._give_back()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in left:
                task.cancel()

    async def _give_back(self) -> None:
        """Let others have what waits here."""
        waiting = [one.delivery for lane in self._lanes.values() for one in lane.waiting]
        for lane in self._lanes.values():
            lane.waiting.clear()
        await self._queue.put_back(waiting, now())

    def _held_by_tenant(self) -> Counter[str]:
        """Deliveries that wait here or are under way."""
        waiting = Counter(one.delivery["tenant"] for lane in self._lanes.values() for one in lane.waiting)
        return waiting + self._of_tenants

    def _choose(self, found: list[Document], free: int, held: Counter[str], most: int) -> list[str]:
        """Of what is due, as much of each endpoint as it has room for, and no more than ``most`` of a tenant."""
        room: dict[str, int] = {}
        chosen: list[str] = []
        for one in found:
            endpoint = one["endpoint"]
            left = room.setdefault(endpoint, self._room(endpoint))
            if left > 0 and len(chosen) < free and held[one["tenant"]] < most:
                held[one["tenant"]] += 1
                room[endpoint] = left - 1
                chosen.append(one["_id"])
        return chosen

    def _room(self, endpoint: str) -> int:
        """How many more of an endpoint may be claimed: none while enough of them wait here, so that a look is worth its while."""
        cap = self._settings.notifier_per_endpoint
        allowed = self._breakers.room(endpoint, self._clock(), cap)
        lane = self._lanes.get(endpoint) or _Lane()
        if allowed < cap:
            return allowed - lane.held
        return 0 if len(lane.waiting) > 2 * cap else cap * (1 + AHEAD) - lane.held

    def _known(self) -> set[str]:
        return self._lanes.keys() | self._breakers.open(self._clock())

    async def _take(self, prepared: Prepared) -> None:
        delivery = prepared.delivery
        if prepared.empty:
            await self._queue.remove(delivery)
        elif prepared.result is not None:
            moment = now()
            await self._record(prepared, Attempt(prepared.result, moment, moment, 0.0))
        else:
            self._lanes.setdefault(delivery["endpoint"], _Lane()).waiting.append(prepared)

    def _start_all(self) -> None:
        for endpoint in [*self._lanes]:
            self._start(endpoint)

    def _start(self, endpoint: str) -> None:
        """Begin to send what waits for this endpoint, as far as there are slots."""
        lane = self._lanes[endpoint]
        allowed = self._breakers.room(endpoint, self._clock(), self._settings.notifier_per_endpoint)
        while (
            not self._stopped
            and lane.waiting
            and lane.sending < allowed
            and self._has_slot(lane.waiting[0].delivery["tenant"])
        ):
            prepared = lane.waiting.popleft()
            if not self._in_time(prepared.delivery):
                continue  # its claim ends before it could be recorded: whoever claims it next sends it
            lane.sending += 1
            tenant = prepared.delivery["tenant"]
            self._of_tenants[tenant] += 1
            task = asyncio.create_task(self._deliver(endpoint, prepared))
            self._tasks.add(task)
            task.add_done_callback(partial(self._sent, tenant))
            metrics.SENDING.set(len(self._tasks))
        if not lane.held:
            del self._lanes[endpoint]

    def _has_slot(self, tenant: str) -> bool:
        """Whether a tenant may send one more now: the last quarter of the slots is for tenants that hold less than a quarter."""
        most = self._settings.notifier_at_once
        if len(self._tasks) >= most:
            return False
        return len(self._tasks) < most * SHARED or self._of_tenants[tenant] < most * (1 - SHARED)

    def _sent(self, tenant: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._of_tenants[tenant] -= 1
        if not self._of_tenants[tenant]:
            del self._of_tenants[tenant]
        metrics.SENDING.set(len(self._tasks))

    def _in_time(self, delivery: Mapping[str, Any]) -> bool:
        claimed_until: datetime = delivery["due_at"]
        return after(self._settings.notifier_timeout_s) < claimed_until

    async def _deliver(self, endpoint: str, prepared: Prepared) -> None:
        lane = self._lanes[endpoint]
        try:
            attempt = await self._attempt(prepared)
            await self._judge(endpoint, lane, attempt.result)
            await self._record(prepared, attempt)
        except Exception:
            # Not recorded: its claim ends by the clock, and it is sent again.
            log.exception("notice.not_recorded", delivery_id=prepared.delivery["_id"])
        finally:
            lane.sending -= 1
            self._start_all()
            self._freed.set()

    async def _attempt(self, prepared: Prepared) -> Attempt:
        delivery = prepared.delivery
        began, started = now(), self._clock()
        try:
            result = await self._channels[delivery["channel"]].send(delivery, prepared.subscription)
        except Exception as error:
            # A mistake of ours must not take the others down, nor lose this one: it is tried again, and ends as dead.
            log.exception("notice.failed", delivery_id=delivery["_id"], channel=delivery["channel"])
            result = Result(delivered=False, reason=f"the notifier failed: {type(error).__name__}")
        latency_s = self._clock() - started
        metrics.LATENCY.labels(delivery["channel"]).observe(latency_s)
        return Attempt(result, began, now(), latency_s)

    async def _judge(self, endpoint: str, lane: _Lane, result: Result) -> None:
        """Tell the breaker; what waits for an endpoint that is left alone from now on goes back."""
        if not result.endpoint_failed:
            if result.status is not None:
                self._breakers.worked(endpoint)
            return
        if self._breakers.failed(endpoint, self._clock()):
            waiting = [one.delivery for one in lane.waiting]
            lane.waiting.clear()
            pause_s = self._breakers.waits_s(endpoint, self._clock())
            log.warning("endpoint.left_alone", endpoint=endpoint, for_s=round(pause_s, 1), reason=result.reason)
            await self._queue.put_back(waiting, after(pause_s))

    async def _record(self, prepared: Prepared, attempt: Attempt) -> None:
        delivery, result = prepared.delivery, attempt.result
        state = state_after(delivery, attempt)
        change = change_of(delivery, attempt, self._settings, random.random)
        if result.gone and prepared.subscription is not None:
            await self._subscriptions.disable(delivery["subscription_id"], result.reason or "", attempt.ended_at)
        if delivery["kind"] == DIGEST and (ending := member_change(delivery, change, state)) is not None:
            await self._queue.end_members(delivery["_id"], delivery.get("members") or [], ending)
        await self._queue.record(delivery, change)
        outcome = "retry" if state is DeliveryState.PENDING else state.value
        metrics.ATTEMPTS.labels(delivery["channel"], outcome).inc()
        if state is DeliveryState.DELIVERED:
            metrics.DELAY.observe(max(0.0, (attempt.ended_at - delivery["created_at"]).total_seconds()))
        log.info(
            "notice.attempted",
            delivery_id=delivery["_id"],
            thread_id=delivery.get("thread_id"),
            subscription_id=delivery["subscription_id"],
            target=shown_target(delivery["channel"], delivery["target"]),
            outcome=outcome,
            status=result.status,
            reason=result.reason,
        )

    async def _pause(self) -> None:
        self._freed.clear()
        try:
            async with asyncio.timeout(self._settings.notifier_poll_s):
                await self._freed.wait()
        except TimeoutError:
            return
