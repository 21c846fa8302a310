"""Keys of the notebook (ADR 3): everything of a thread shares a prefix of ``_id``.

Contract: this module is the only place that builds or takes apart an ``_id``. The layout is stored; never change it.
Ranges are half open: ``low <= _id < high``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from perdure.checkpoint.errors import InvalidId

SEPARATOR = "\x1f"
AFTER = "\x20"
"""Sorts right after everything that continues with the separator."""

CHECKPOINT, WRITES, SEGMENT, HEAD, FENCE, ENTRY, NOTE = "c", "w", "s", "h", "f", "e", "n"

Range: TypeAlias = tuple[str, str]


def checked(name: str, value: Any, *, empty: bool = False) -> str:
    """``value`` as a key part.

    Raises:
        InvalidId: It holds the separator, or is empty and must not be.

    """
    text = value if isinstance(value, str) else str(value) if isinstance(value, int) else None
    if text is None or SEPARATOR in text or not (text or empty):
        raise InvalidId(name, value)
    return text


def checkpoint(thread: str, ns: str, checkpoint_id: str) -> str:
    """Key of a checkpoint."""
    return f"{thread}\x1fc\x1f{ns}\x1f{checkpoint_id}"


def writes(thread: str, ns: str, checkpoint_id: str, task: str, slot: str) -> str:
    """Key of the writes of one ``put_writes`` call."""
    return f"{thread}\x1fw\x1f{ns}\x1f{checkpoint_id}\x1f{task}\x1f{slot}"


def segment(thread: str, digest: bytes) -> str:
    """Key of a segment."""
    return f"{thread}\x1fs\x1f{digest.hex()}"


def head(thread: str, ns: str) -> str:
    """Key of a head hint."""
    return f"{thread}\x1fh\x1f{ns}"


def fence(thread: str, seq: int) -> str:
    """Key of a fence."""
    return f"{thread}\x1ff\x1f{seq}"


def entry(thread: str, seq: int) -> str:
    """Key of a run's transition in the history."""
    return f"{thread}\x1fe\x1f{seq}"


def note(thread: str, after: int, number: int) -> str:
    """Key of a note: an event outside the owner's history, after a sequence number."""
    return f"{thread}\x1fn\x1f{after:012d}\x1f{number:04d}"


def notes_after(thread: str, after: int) -> Range:
    """All notes of a thread after one sequence number, in their order."""
    prefix = f"{thread}\x1fn\x1f{after:012d}"
    return f"{prefix}\x1f", f"{prefix}{AFTER}"


def everything(thread: str) -> Range:
    """All documents of a thread."""
    return f"{thread}\x1f", f"{thread}{AFTER}"


def of_threads(prefix: str) -> Range:
    """All documents of the threads whose ids begin so."""
    return prefix, f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}"


def of_kind(thread: str, kind: str) -> Range:
    """All documents of one kind of a thread."""
    return f"{thread}\x1f{kind}\x1f", f"{thread}\x1f{kind}{AFTER}"


def checkpoints(thread: str, ns: str, *, first: str = "", before: str | None = None) -> Range:
    """Checkpoints of a namespace with ``first <= checkpoint_id < before``."""
    prefix = f"{thread}\x1fc\x1f{ns}"
    return f"{prefix}\x1f{first}", f"{prefix}{AFTER}" if before is None else f"{prefix}\x1f{before}"


def writes_of(thread: str, ns: str, checkpoint_id: str) -> Range:
    """All pending writes of one checkpoint."""
    prefix = f"{thread}\x1fw\x1f{ns}\x1f{checkpoint_id}"
    return f"{prefix}\x1f", f"{prefix}{AFTER}"


def writes_between(thread: str, ns: str, first: str, last: str) -> Range:
    """Pending writes of the checkpoints with ``first <= checkpoint_id <= last``."""
    prefix = f"{thread}\x1fw\x1f{ns}\x1f"
    return f"{prefix}{first}\x1f", f"{prefix}{last}{AFTER}"


def query(bounds: Range) -> dict[str, Any]:
    """The filter for a range of keys."""
    low, high = bounds
    return {"_id": {"$gte": low, "$lt": high}}


def parts(key: str) -> list[str]:
    """The parts of a key: thread, kind, and what the kind has."""
    return key.split(SEPARATOR)
