"""What a source raises, and the shape of a source."""

from __future__ import annotations

from typing import Any, Protocol

from perdure.chassis.errors import PerdureError


class SourceError(PerdureError):
    """A source gives no value that can be used.

    Attributes:
        retryable: Whether another attempt may succeed.

    """

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.retryable = retryable


class SourceReader(Protocol):
    """Reads sources of one kind."""

    def key(self, source: Any) -> str:
        """What a source's reads have in common: the host, the connection, the fetcher. Fit for messages.

        Raises:
            SourceError: there is no such thing.

        """
        ...

    async def read(self, source: Any, timeout_s: float, /) -> Any:
        """Read it now.

        Args:
            source: The source, of this reader's kind.
            timeout_s: When the caller gives up, in seconds: worth telling a server.

        Raises:
            SourceError: there is no value.

        """
        ...

    async def close(self) -> None:
        """Close connections."""
        ...
