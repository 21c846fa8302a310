"""Pure decisions of the effect ledger: where an effect stands, what each event makes of its document (ADR 9).

Contract: no I/O, no clock. A transition takes a document and returns the next one, or ``None`` when nothing changes; each is
idempotent by the token of its attempt, because the store may have done what it did not acknowledge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from perdure.schemas.effect_documents import AttemptDocument, EffectDocument, EffectState
from perdure.sdk.effect_errors import EffectMisused, KeyReused

KEY_PATTERN: Final = re.compile(r"[\x21-\x7e]{1,160}")
MARGIN: Final = timedelta(seconds=1)
"""Between an attempt's deadline and the moment from which others may act: what clocks may drift within an attempt."""
ATTEMPTS_KEPT: Final = 50
ERROR_LENGTH: Final = 1_000


class Phase(Enum):
    """Where an effect stands."""

    FREE = "free"
    """It certainly has not happened: it may be tried."""
    BUSY = "busy"
    """An attempt may be under way in some process."""
    UNKNOWN = "unknown"
    """An attempt was begun, is over, and left no receipt."""
    DONE = "done"


def effect_id(thread_id: str, key: str) -> str:
    """The id of an effect, and its idempotency key. This format is stored and given to others; never change it.

    The first colon ends the thread: a colon of a thread id is written ``%3A`` (no thread id holds a percent sign).

    Raises:
        EffectMisused: the key is not 1 to 160 visible ASCII characters.

    """
    if not KEY_PATTERN.fullmatch(key):
        raise EffectMisused(
            f"the key {key!r} of an effect must be 1 to 160 visible ASCII characters (thread {thread_id})"
        )
    return f"{thread_id.replace(':', '%3A')}:{key}"


def earlier_id(thread_id: str, key: str) -> str | None:
    """The id that the same effect had before colons of thread ids were written ``%3A``; ``None`` where it is the same."""
    return f"{thread_id}:{key}" if ":" in thread_id else None


def is_own(document: EffectDocument, thread_id: str, key: str) -> bool:
    """Whether a stored effect is the one of this thread and key."""
    return document["thread_id"] == thread_id and document["key"] == key


def require_own(document: EffectDocument, thread_id: str, key: str, tenant: str | None = None) -> None:
    """Refuse to take an effect of another thread, key or tenant for this one's.

    Args:
        document: The effect that is stored under the id.
        thread_id: The thread of the executing node.
        key: The key that the node names.
        tenant: The tenant of the run, once it is known.

    Raises:
        EffectMisused: it is another one.

    """
    same_tenant = tenant is None or document["tenant"] == tenant
    if not is_own(document, thread_id, key) or not same_tenant:
        raise EffectMisused(
            f"effect {key!r} of thread {thread_id} has the same id as an effect that is stored for "
            f"{'another tenant' if not same_tenant else 'another thread'}: nothing was done; choose another key"
        )


def require_same_action(document: EffectDocument, digest: str | None) -> None:
    """Refuse to take one act for another. A key whose act certainly did not happen may stand for another one.

    Raises:
        KeyReused: the key stands for another action.

    """
    if document.get("action_digest") != digest and document["state"] != EffectState.NOT_DONE.value:
        raise KeyReused(describe(document["thread_id"], document["key"]), document.get("action_digest"), digest)


def describe(thread_id: str, key: str) -> str:
    """How messages name an effect."""
    return f"effect {key!r} of thread {thread_id}"


def phase(
    document: EffectDocument | None, now: datetime | None, is_gone: Callable[[Mapping[str, Any] | None], bool]
) -> Phase:
    """Where an effect stands.

    Args:
        document: As stored.
        now: By the database's clock; matters only for an intent.
        is_gone: Whether the process of an attempt is known not to exist any more.

    """
    if document is None or document["state"] == EffectState.NOT_DONE.value:
        return Phase.FREE
    if document["state"] == EffectState.DONE.value:
        return Phase.DONE
    last = document["attempts"][-1]
    late = now is not None and now >= last["deadline"] + MARGIN
    over = "ended_at" in last or late or is_gone(last.get("place"))
    return Phase.UNKNOWN if over else Phase.BUSY


def last_number(document: EffectDocument | None) -> int:
    """The number of the newest attempt; 0 without one."""
    return document["attempts"][-1]["number"] if document is not None else 0


def begun(
    document: EffectDocument, attempt: AttemptDocument, digest: str | None, guards: list[str]
) -> EffectDocument | None:
    """Another attempt. The caller has seen that its predecessor is over (``attempt["number"]`` says which that was)."""
    last = document["attempts"][-1]
    if last["token"] == attempt["token"] or last["number"] != attempt["number"] - 1:
        return None
    if document["state"] == EffectState.DONE.value:
        return None
    if document.get("action_digest") != digest and document["state"] != EffectState.NOT_DONE.value:
        return None
    new = _next(document, attempt["started_at"], state=EffectState.INTENT.value, action_digest=digest)
    new["attempts"] = [*document["attempts"], attempt][-ATTEMPTS_KEPT:]
    if guards:
        new["guards"] = list(dict.fromkeys([*document.get("guards", []), *guards]))
    return new


def failed(document: EffectDocument, token: str, error: str, now: datetime) -> EffectDocument | None:
    """An attempt ended without saying whether it acted."""
    return _ended(document, token, {"ended_at": now, "outcome": "unknown", "error": error[:ERROR_LENGTH]})


def undone(document: EffectDocument, number: int, by: str, now: datetime) -> EffectDocument | None:
    """The newest attempt certainly did not happen."""
    last = document["attempts"][-1]
    if document["state"] != EffectState.INTENT.value or last["number"] != number:
        return None
    told: AttemptDocument = {"ended_at": now, **last, "outcome": "not_done", "told_by": by[:ERROR_LENGTH]}
    return _next(document, now, state=EffectState.NOT_DONE.value, attempts=[*document["attempts"][:-1], told])


def done(
    document: EffectDocument, token: str | None, receipt: tuple[str, bytes], by: str, now: datetime
) -> EffectDocument | None:
    """A receipt. The first one stays; every later one is kept beside it, and is told from a repeat by its bytes.

    Args:
        document: As stored.
        token: Of the attempt that returned it; ``None``: somebody else knew.
        receipt: Type and bytes.
        by: Who knew: ``attempt 2``, ``reconcile``, a person.
        now: By the database's clock.

    """
    again = document["state"] == EffectState.DONE.value
    if again and (token is None or document.get("receipt_token") == token):
        return None
    if again and any(one["token"] == token for one in document.get("more_receipts", [])):
        return None
    marked = _ended(document, token, {"ended_at": now, "outcome": "done"}) if token else None
    new = marked or _next(document, now)
    if again:
        same = (document["receipt_type"], bytes(document["receipt"])) == receipt
        more = {"token": token, "type": receipt[0], "receipt": receipt[1], "at": now, "same": same}
        new["more_receipts"] = [*document.get("more_receipts", []), more]
        return new
    new["state"] = EffectState.DONE.value
    new["receipt_type"], new["receipt"] = receipt
    new["receipt_token"], new["receipt_by"], new["done_at"] = token, by, now
    return new


def asked(document: EffectDocument, place: str, number: int, now: datetime) -> EffectDocument | None:
    """A person is asked about the newest attempt, from this place of the graph (ADR 9: replayed questions keep their order)."""
    if any(one["ns"] == place and one["attempt"] == number for one in document.get("asked", [])):
        return None
    if document["state"] != EffectState.INTENT.value or last_number(document) != number:
        return None
    new = _next(document, now)
    new["asked"] = [*document.get("asked", []), {"ns": place, "attempt": number}]
    return new


def acted_twice(document: EffectDocument, token: str) -> bool:
    """Whether this attempt's receipt tells of another act than the one on record."""
    return any(one["token"] == token and not one["same"] for one in document.get("more_receipts", []))


def _next(document: EffectDocument, now: datetime, **fields: Any) -> EffectDocument:
    new: EffectDocument = {**document, "updated_at": now, "version": document["version"] + 1, **fields}  # type: ignore[typeddict-item]
    return new


def _ended(document: EffectDocument, token: str, fields: Mapping[str, Any]) -> EffectDocument | None:
    found = next((one for one in document["attempts"] if one["token"] == token), None)
    if found is None or "outcome" in found:
        return None
    ended: AttemptDocument = {**found, **fields}  # type: ignore[typeddict-item]
    attempts = [ended if one is found else one for one in document["attempts"]]
    return _next(document, fields["ended_at"], attempts=attempts)
