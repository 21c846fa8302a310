"""One call of ``effect``: from what is on record to a receipt, a question or a refusal (ADR 9).

Contract: runs on the worker's event loop, in the context of the node. ``fn`` is called only after its intent and its guards are
durable, and only while its attempt's time and its guards' time last by this process's monotonic clock, counted from before the
database was asked for the time.

Outside: what the events of an effect make of its document (``effect_rules``), storing it (``ledger``), judging guards (``guards``).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import uuid4

from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp

from perdure.chassis import json
from perdure.chassis.telemetry import logger
from perdure.checkpoint.scope import RunScope
from perdure.schemas.effect_documents import AttemptDocument, EffectDocument, EffectState
from perdure.sdk import effect_rules as rules
from perdure.sdk.context import SdkContext
from perdure.sdk.effect_errors import EffectMisused, EffectTimeout, GuardError
from perdure.sdk.effect_rules import Phase
from perdure.sdk.guards import Guard, permit
from perdure.sdk.ledger import RESULTS, Ledger, receipt_of
from perdure.sdk.place import here, is_gone
from perdure.sdk.waits import Answered, ask_human

log = logger(__name__)

POLL_S: Final = 0.5
"""How often an attempt of another process is looked at."""
CLEAN_UP_S: Final = 5.0
"""How long a cancelled node waits until the ledger knows."""
TOO_LATE_LIMIT: Final = 3
SHOWN_ACTION_BYTES: Final = 16 * 1024
ANSWER_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"happened": {"type": "boolean"}, "receipt": {}},
    "required": ["happened"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Done:
    """It happened; this is its receipt."""

    receipt: Any = None


@dataclass(frozen=True, slots=True)
class NotDone:
    """It certainly did not happen, and the attempt that is on record will not make it happen any more."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """It cannot be told."""

    why: str = ""


Reconciled: TypeAlias = Done | NotDone | Unknown
Reconcile: TypeAlias = Callable[[str], Awaitable[Reconciled] | Reconciled]
InThread: TypeAlias = Callable[[Callable[[str], Any], str], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Order:
    """What a node asks for."""

    key: str
    fn: Callable[[str], Any]
    action: Any
    digest: str | None
    guards: tuple[Guard, ...]
    reconcile: Reconcile | None
    asks: bool
    """Whether a person is asked when nobody knows; else it is tried again."""
    timeout: timedelta
    not_done: tuple[type[Exception], ...]


class _LookAgain(Exception):
    """Somebody else was faster, or the process stood still for so long that the attempt may not act any more."""

    def __init__(self, reason: str, *, too_late: bool = False) -> None:
        super().__init__(reason)
        self.too_late = too_late


_working: set[asyncio.Task[Any]] = set()
"""Attempts whose node was cancelled go on to their entry in the ledger."""


class Flow:
    """One call."""

    def __init__(self, order: Order, scope: RunScope, sdk: SdkContext, in_thread: InThread) -> None:
        self._order = order
        self._scope = scope
        self._sdk = sdk
        self._ledger = Ledger(sdk, scope)
        self._in_thread = in_thread
        self._id = rules.effect_id(scope.thread_id, order.key)
        self._where = rules.describe(scope.thread_id, order.key)
        self._place: str = get_config()["configurable"].get("checkpoint_ns", "")
        self._heard = 0
        self._answers: dict[int, Answered] = {}
        self._too_late = 0
        self._cancelled = False
        self._stoppable = False
        self._in_hand = False

    async def run(self) -> Any:
        """The receipt."""
        await self._use_earlier_id()
        while True:
            found = await self._ledger.find(self._id)
            if found is not None:
                rules.require_own(found, self._scope.thread_id, self._order.key)
                rules.require_same_action(found, self._order.digest)
                self._hear(found)
            phase = await self._phase(found)
            if found is not None and phase is Phase.DONE:
                RESULTS.labels(result="returned").inc()
                return receipt_of(self._sdk.receipts, found)
            if phase is Phase.BUSY:
                await asyncio.sleep(POLL_S)
                continue
            if found is not None and phase is Phase.UNKNOWN and not await self._may_retry(found):
                continue
            try:
                return await self._act(found)
            except _LookAgain as again:
                log.info("effect.looked_at_again", effect=self._id, run_id=self._scope.run_id, reason=str(again))
                self._too_late += again.too_late
                if self._too_late >= TOO_LATE_LIMIT:
                    raise EffectTimeout(
                        f"{self._where} was not begun: {self._too_late} times in a row its time ({self._order.timeout}) was over "
                        f"before its intent was stored; give it more"
                    ) from again

    async def _use_earlier_id(self) -> None:
        """Go on under the id that this effect was begun with, if that was before ids had the form that they have now."""
        earlier = rules.earlier_id(self._scope.thread_id, self._order.key)
        begun = await self._ledger.find(earlier) if earlier is not None else None
        if begun is not None and rules.is_own(begun, self._scope.thread_id, self._order.key):
            self._id = begun["_id"]

    async def _phase(self, found: EffectDocument | None) -> Phase:
        running = found is not None and found["state"] == EffectState.INTENT.value
        return rules.phase(found, await self._ledger.now() if running else None, is_gone)

    # ------------------------------------------------------------------ an attempt

    async def _begin(self, found: EffectDocument | None) -> tuple[AttemptDocument, float]:
        """Record the next attempt; with it, until when it may begin to act (monotonic clock)."""
        looked_at = time.monotonic()
        now = await self._ledger.now()
        tenant, until = await self._permitted(now)
        if found is not None:
            rules.require_own(found, self._scope.thread_id, self._order.key, tenant)
        attempt: AttemptDocument = {
            "number": rules.last_number(found) + 1,
            "token": str(uuid4()),
            "run_id": self._scope.run_id,
            "epoch": self._scope.epoch,
            "place": here(),
            "started_at": now,
            "deadline": now + self._order.timeout,
        }
        fresh: EffectDocument = {
            "_id": self._id,
            "tenant": tenant,
            "thread_id": self._scope.thread_id,
            "key": self._order.key,
            "action_digest": self._order.digest,
            "state": EffectState.INTENT.value,
            "version": 1,
            "attempts": [attempt],
            "created_at": now,
            "updated_at": now,
        }
        guards = [guard.id for guard in self._order.guards if guard.id is not None]
        if guards:
            fresh["guards"] = guards
        if await self._ledger.begin(found, fresh, guards) is None:
            raise _LookAgain("another attempt was begun meanwhile")
        lasts = min((until or attempt["deadline"]), attempt["deadline"]) - now
        return attempt, looked_at + lasts.total_seconds()

    async def _permitted(self, now: datetime) -> tuple[str, datetime | None]:
        """The tenant, and until when the guards let it run.

        Raises:
            GuardError: they do not.
            RunLost: the run has another owner.

        """
        run = await self._ledger.own_run()
        expiries: list[datetime] = []
        for guard in self._order.guards:
            woken = await self._ledger.woken(run["tenant"], guard.id) if guard.id is not None else None
            try:
                expires = permit(
                    guard,
                    woken,
                    where=self._where,
                    thread_id=self._scope.thread_id,
                    digest=self._order.digest or "",
                    now=now,
                )
            except GuardError as error:
                RESULTS.labels(result="refused").inc()
                log.warning("effect.refused", effect=self._id, guard=guard.id, reason=type(error).__name__)
                raise
            if expires is not None:
                expiries.append(expires)
        return run["tenant"], min(expiries, default=None)

    async def _act(self, found: EffectDocument | None) -> Any:
        """Run the next attempt in a task of its own: a node that is cancelled must not lose what is known."""
        work = asyncio.ensure_future(self._attempt(found))
        _working.add(work)
        work.add_done_callback(_let_go)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self._cancelled = True
            if self._stoppable:
                work.cancel()
            if not self._in_hand:
                await asyncio.wait({work}, timeout=CLEAN_UP_S)
            raise

    async def _attempt(self, found: EffectDocument | None) -> Any:
        attempt, act_before = await self._begin(found)
        token = attempt["token"]
        if self._cancelled or time.monotonic() >= act_before:
            await self._ledger.undone(
                self._id, attempt["number"], "it was stopped, or stood still, before it could act"
            )
            raise _LookAgain("the process stood still before it could act", too_late=True)
        try:
            receipt = await self._call(self._order.fn, attempt)
        except self._order.not_done as error:
            await self._ledger.undone(self._id, attempt["number"], _text(error))
            RESULTS.labels(result="not_done").inc()
            raise
        except asyncio.CancelledError:
            await self._ledger.failed(self._id, token, "its node was cancelled")
            raise
        except GraphBubbleUp as error:
            await self._ledger.failed(self._id, token, "it waited")
            raise EffectMisused(
                f"{self._where}: its function must not wait or interrupt; wait before the effect"
            ) from error
        except Exception as error:
            await self._ledger.failed(self._id, token, _text(error))
            RESULTS.labels(result="failed").inc()
            raise
        stored = await self._ledger.finish(self._id, token, receipt, f"attempt {attempt['number']}")
        RESULTS.labels(result="done").inc()
        return receipt_of(self._sdk.receipts, stored)

    async def _call(self, function: Callable[[str], Any], attempt: AttemptDocument | None) -> Any:
        """Call what may be async, with the idempotency key; only what is async can be stopped."""
        if inspect.iscoroutinefunction(function):
            given = function(self._id)
        else:
            self._in_hand = attempt is not None
            try:
                given = await self._in_thread(function, self._id)
            finally:
                self._in_hand = False
        if not inspect.isawaitable(given):
            return given
        self._stoppable = attempt is not None
        try:
            async with asyncio.timeout(self._order.timeout.total_seconds()) as limit:
                return await given
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise EffectTimeout(
                f"{self._where} did not end within {self._order.timeout}: whether it happened is unknown"
            ) from error
        finally:
            self._stoppable = False

    # ------------------------------------------------------------------ an attempt without a receipt

    async def _may_retry(self, found: EffectDocument) -> bool:
        """Find out what became of the newest attempt; true when it may be tried again although nobody knows."""
        number = rules.last_number(found)
        answer = self._answers.get(number)
        if answer is not None:
            if answer.value["happened"]:
                await self._ledger.finish(self._id, None, answer.value.get("receipt"), answer.by or "a person")
            else:
                await self._ledger.undone(self._id, number, answer.by or "a person")
            return False
        log.info("effect.unknown_found", effect=self._id, attempt=number, run_id=self._scope.run_id)
        became = await self._reconciled()
        if isinstance(became, Done):
            await self._ledger.finish(self._id, None, became.receipt, "reconcile")
            RESULTS.labels(result="reconciled").inc()
            return False
        if isinstance(became, NotDone):
            await self._ledger.undone(self._id, number, "reconcile")
            return False
        if not self._order.asks and await self._still_permitted():
            return True
        await self._ledger.asked(self._id, self._place, number)
        RESULTS.labels(result="asked").inc()
        return False

    async def _reconciled(self) -> Reconciled:
        if self._order.reconcile is None:
            return Unknown()
        try:
            became = await self._call(self._order.reconcile, None)
        except Exception as error:
            log.warning("effect.reconcile_failed", effect=self._id, error=_text(error))
            return Unknown(_text(error))
        if not isinstance(became, Done | NotDone | Unknown):
            raise EffectMisused(
                f"{self._where}: reconcile returned a {type(became).__name__}; it must return Done, NotDone or Unknown"
            )
        return became

    async def _still_permitted(self) -> bool:
        """Whether the guards, if any, would let it run again: what may have happened is not judged by a refusal."""
        try:
            await self._permitted(await self._ledger.now())
        except GuardError:
            return False
        return True

    def _hear(self, found: EffectDocument) -> None:
        """Take the answers to what was asked from this task, in the order of asking; sleeps where there is none yet.

        Also those that do not matter any more: LangGraph gives answers by position, to whichever interrupt comes next.
        """
        mine = [one for one in found.get("asked", []) if one["ns"] == self._place]
        for one in mine[self._heard :]:
            self._answers[one["attempt"]] = self._ask(found, one["attempt"])
            self._heard += 1

    def _ask(self, found: EffectDocument, number: int) -> Answered:
        attempt = next((one for one in found["attempts"] if one["number"] == number), None)
        action: Any = self._order.action
        if len(json.dumps(action)) > SHOWN_ACTION_BYTES:
            action = f"(large; digest {self._order.digest})"
        details = {
            "effect": self._order.key,
            "idempotency_key": self._id,
            "action": action,
            "attempt": number,
            "begun_at": attempt["started_at"].isoformat() if attempt else None,
            "error": (attempt or {}).get("error") or "its process ended without a word",
        }
        question = f"Did it happen? Effect {self._order.key!r} was begun and left no receipt."
        while True:
            answer = ask_human(question, ANSWER_SCHEMA, details=details)
            if not isinstance(answer, Answered):
                raise TypeError("a question without an expiry expired")
            if isinstance(answer.value, dict) and isinstance(answer.value.get("happened"), bool):
                return answer


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _let_go(work: asyncio.Task[Any]) -> None:
    _working.discard(work)
    if not work.cancelled():
        work.exception()  # whoever still waits for it gets it; else it is in the ledger
