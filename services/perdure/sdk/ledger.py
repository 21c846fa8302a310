"""The effect ledger on MongoDB: one document an effect, every change a compare-and-set on its version (ADR 9).

Contract: every method returns when what it says is durable, waits out a lost database, and is idempotent. The intent and the use of
its guards are one insert (or one replace): the unique index ``guard_once`` lets no two effects hold the same guard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from prometheus_client import Counter
from pymongo.errors import DuplicateKeyError

from perdure.chassis.at_rest import require_own, sealed
from perdure.chassis.mongo import server_time
from perdure.chassis.outage import outlast
from perdure.chassis.telemetry import logger
from perdure.checkpoint.scope import RunScope
from perdure.registry.waits import Woken
from perdure.schemas.documents import EFFECTS, RUNS, RunDocument
from perdure.schemas.effect_documents import AttemptDocument, EffectDocument, EffectState
from perdure.sdk import effect_rules as rules
from perdure.sdk.context import SdkContext
from perdure.sdk.effect_errors import GuardUsed, ReceiptUnstorable, RunLost

log = logger(__name__)

RECEIPT_LIMIT: Final = 1024 * 1024
"""Bytes of a receipt as it is stored."""
UNSTORABLE: Final = "unstorable"
RESULTS = Counter("perdure_effects", "What became of calls of effect", ["result"])
TWICE = Counter("perdure_effects_twice", "Effects that were found to have happened more than once")


class Ledger:
    """The effects of one thread."""

    def __init__(self, sdk: SdkContext, scope: RunScope) -> None:
        self._db = sdk.db
        self._effects = sdk.db[EFFECTS]
        self._waits = sdk.waits
        self._availability = sdk.availability
        self._scope = scope
        self._receipts = sdk.receipts

    async def now(self) -> datetime:
        """The database's clock."""
        return await outlast(lambda: server_time(self._db), self._availability)

    async def find(self, effect: str) -> EffectDocument | None:
        """An effect as stored."""
        found: Any = await outlast(lambda: self._effects.find_one({"_id": effect}), self._availability)
        if found is not None:
            require_own(EFFECTS, [found])
        return found  # type: ignore[no-any-return]

    async def woken(self, tenant: str, wait: str) -> Woken | None:
        """How a wait ended."""
        return await self._waits.woken(tenant, wait)

    async def own_run(self) -> RunDocument:
        """The run of the executing node.

        Raises:
            RunLost: it has another owner by now. The scope is marked, so that nothing else of this execution is written.

        """
        scope = self._scope
        fields = dict.fromkeys(("tenant", "thread_id", "status", "epoch"), 1)
        run: Any = await outlast(lambda: self._db[RUNS].find_one({"_id": scope.run_id}, fields), self._availability)
        if run is None or run["status"] != "running" or run["epoch"] != scope.epoch or scope.fenced:
            scope.fenced = True
            raise RunLost(
                f"run {scope.run_id} of thread {scope.thread_id} is not this worker's any more (epoch {scope.epoch}): "
                f"no effect is begun here; its new owner goes on"
            )
        return run  # type: ignore[no-any-return]

    async def begin(
        self, found: EffectDocument | None, fresh: EffectDocument, guards: Sequence[str]
    ) -> EffectDocument | None:
        """Record an attempt (the only one of ``fresh``) and use its guards up; ``None`` when somebody was faster.

        Raises:
            GuardUsed: another effect holds one of the guards.

        """
        attempt = fresh["attempts"][0]
        try:
            if found is None:
                return await self._insert(fresh, attempt)
            stored = await self._change(
                fresh["_id"], lambda old: rules.begun(old, attempt, fresh["action_digest"], list(guards))
            )
        except DuplicateKeyError as error:
            raise await self._used(fresh, guards) from error
        return stored if stored["attempts"][-1]["token"] == attempt["token"] else None

    async def finish(self, effect: str, token: str | None, receipt: Any, by: str) -> EffectDocument:
        """Record a receipt; the effect as it stands now, which may have another's receipt."""
        packed, now = pack(self._receipts, receipt), await self.now()
        stored = await self._change(effect, lambda old: rules.done(old, token, packed, by, now))
        if token is not None and rules.acted_twice(stored, token):
            TWICE.inc()
            log.error(
                "effect.twice",
                effect=effect,
                thread_id=stored["thread_id"],
                first_by=stored["receipt_by"],
                second_by=by,
            )
        return stored

    async def failed(self, effect: str, token: str, error: str) -> None:
        """Record that an attempt is over and may or may not have acted."""
        now = await self.now()
        await self._change(effect, lambda old: rules.failed(old, token, error, now))
        log.warning("effect.unknown", effect=effect, error=error[:500])

    async def undone(self, effect: str, number: int, by: str) -> None:
        """Record that the newest attempt certainly did not act."""
        now = await self.now()
        await self._change(effect, lambda old: rules.undone(old, number, by, now))

    async def asked(self, effect: str, place: str, number: int) -> None:
        """Record that a person is about to be asked."""
        now = await self.now()
        await self._change(effect, lambda old: rules.asked(old, place, number, now))

    async def _insert(self, fresh: EffectDocument, attempt: AttemptDocument) -> EffectDocument | None:
        try:
            await outlast(lambda: self._effects.insert_one(sealed(EFFECTS, fresh)), self._availability)  # type: ignore[arg-type]
        except DuplicateKeyError:
            stored = await self.find(fresh["_id"])
            if stored is None:
                raise  # not the effect is there, but a guard's other user
            return stored if stored["attempts"][-1]["token"] == attempt["token"] else None
        return fresh

    async def _change(
        self, effect: str, transition: Callable[[EffectDocument], EffectDocument | None]
    ) -> EffectDocument:
        while True:
            old = await self.find(effect)
            if old is None:
                raise LookupError(f"effect {effect} was recorded and is not there any more: was its thread deleted?")
            if (new := transition(old)) is None:
                return old
            if await self._replace(old, new):
                return new

    async def _replace(self, old: EffectDocument, new: EffectDocument) -> bool:
        query = {"_id": old["_id"], "version": old["version"]}
        result: Any = await outlast(lambda: self._effects.replace_one(query, sealed(EFFECTS, new)), self._availability)
        return bool(result.matched_count)

    async def _used(self, fresh: EffectDocument, guards: Sequence[str]) -> Exception:
        query = {"guards": {"$in": list(guards)}, "_id": {"$ne": fresh["_id"]}}
        holder: Any = await outlast(lambda: self._effects.find_one(query), self._availability)
        if holder is None:
            return LookupError(
                f"a guard of effect {fresh['_id']} is refused as used, and nobody holds it: {list(guards)}"
            )
        guard = next(one for one in guards if one in holder["guards"])
        RESULTS.labels(result="refused").inc()
        return GuardUsed(
            f"{rules.describe(fresh['thread_id'], fresh['key'])}: {guard} allows one act and was used by effect "
            f"{holder['_id']}; get a verdict or an approval for this effect of its own",
            guard,
            holder["_id"],
        )


def pack(serializer: SerializerProtocol, receipt: Any) -> tuple[str, bytes]:
    """A receipt as stored; one that cannot be is replaced by the reason, for the act has happened."""
    try:
        typ, data = serializer.dumps_typed(receipt)
    except Exception as error:  # whatever the serializer or the value's own code raises
        return UNSTORABLE, f"a {type(receipt).__name__} cannot be stored: {error}".encode()
    if len(data) > RECEIPT_LIMIT:
        return (
            UNSTORABLE,
            f"{len(data)} bytes are over the limit of {RECEIPT_LIMIT}: return an id, not a document".encode(),
        )
    return typ, data


def receipt_of(serializer: SerializerProtocol, document: EffectDocument) -> Any:
    """The receipt of an effect that is done.

    Raises:
        ReceiptUnstorable: there is none, and never will be; or it is stored, and of a type that may not be constructed.

    """
    if document["state"] != EffectState.DONE.value:
        raise LookupError(f"effect {document['_id']} is {document['state']}")
    if document["receipt_type"] == UNSTORABLE:
        where = rules.describe(document["thread_id"], document["key"])
        raise ReceiptUnstorable(
            f"{where} happened and is not done again, but its receipt is lost: {bytes(document['receipt']).decode()}"
        )
    refused: list[str] = []
    thread = threading.get_ident()

    def listen(event: SerdeEvent) -> None:
        if "blocked" in event["kind"] and threading.get_ident() == thread:
            refused.append(f"{event['module']}:{event['name']}")

    unregister = register_serde_event_listener(listen)
    try:
        receipt = serializer.loads_typed((document["receipt_type"], bytes(document["receipt"])))
    finally:
        unregister()
    if refused:
        where, names = rules.describe(document["thread_id"], document["key"]), ", ".join(refused)
        raise ReceiptUnstorable(
            f"{where} happened and is not done again. Its receipt is stored and cannot be read: {names} is no type that a graph's "
            f"schemas name. Add it to PERDURE_ALLOWED_TYPES and retry the run, or return plain data"
        )
    return receipt
