"""What came of one attempt, the same for every channel.

Contract: sending never raises for anything that a receiver or a network can do: it is a :class:`Result`. ``endpoint_failed``
tells a receiver that is down (no answer, or an error of the server) from one that refuses this delivery: only the former
opens the breaker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

REASON_LIMIT: Final = 500


@dataclass(frozen=True, slots=True)
class Result:
    """One attempt.

    Attributes:
        delivered: Whether the receiver took it.
        final: Whether trying again is of no use; only of one that was not delivered.
        status: What it answered: an HTTP status, an SMTP code; ``None`` without an answer.
        reason: Why it was not delivered, and what to do; for people.
        retry_after_s: What the receiver asks for.
        endpoint_failed: It is down.
        gone: It said that it will never take anything again.
        dropped: There was nothing to tell any more; ``reason`` says why.

    """

    delivered: bool
    final: bool = False
    status: int | None = None
    reason: str | None = None
    retry_after_s: float | None = None
    endpoint_failed: bool = False
    gone: bool = False
    dropped: bool = False


def dead(reason: str, status: int | None = None) -> Result:
    """Trying again is of no use."""
    return Result(delivered=False, final=True, status=status, reason=short(reason))


def dropped(reason: str) -> Result:
    """There is nothing to tell any more."""
    return Result(delivered=False, final=True, dropped=True, reason=short(reason))


def down(reason: str, status: int | None = None, retry_after_s: float | None = None) -> Result:
    """The endpoint is down."""
    return Result(
        delivered=False, status=status, reason=short(reason), retry_after_s=retry_after_s, endpoint_failed=True
    )


def short(text: str) -> str:
    """Text as a reason: one line of at most ``REASON_LIMIT`` characters, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= REASON_LIMIT else line[: REASON_LIMIT - 1] + "…"


class Send(Protocol):
    """A channel."""

    async def send(self, delivery: Mapping[str, Any], subscription: Mapping[str, Any] | None) -> Result:
        """Deliver once.

        Args:
            delivery: Its document, with ``data`` as it is told now.
            subscription: Its subscription; ``None`` when the ``webhook`` of a run is the subscription.

        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
