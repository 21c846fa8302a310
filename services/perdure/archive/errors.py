"""What can go wrong with the archive.

::

    PerdureError (perdure.chassis.errors)
    └── ArchiveError
        ├── ArchiveUnavailableError   retryable: the store does not answer, or refuses us
        ├── ArchiveDamagedError       an object is missing, or is not what was written
        └── WorkLostError             another process works on this thread now
"""

from __future__ import annotations

from perdure.chassis.errors import PerdureError


class ArchiveError(PerdureError):
    """The archive cannot do what it was asked to."""


class ArchiveUnavailableError(ArchiveError):
    """The store does not answer, or refuses us."""

    retryable = True

    def __init__(self, url: str, operation: str, reason: str) -> None:
        super().__init__(
            f"the archive store {url} cannot {operation}: {reason}. Check PERDURE_ARCHIVE_URL, PERDURE_ARCHIVE_OPTIONS, "
            "the credentials and the network; it is tried again"
        )


class ArchiveDamagedError(ArchiveError):
    """An object is missing, or is not what was written."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(
            f"archive object {key}: {what}. Nothing was changed; bring the object back from a copy of the store and try again"
        )
        self.key = key


class WorkLostError(ArchiveError):
    """Another process took over the work on this thread, or the thread changed."""

    def __init__(self, thread_id: str) -> None:
        super().__init__(f"thread {thread_id}: another process works on its archiving now")
        self.thread_id = thread_id
