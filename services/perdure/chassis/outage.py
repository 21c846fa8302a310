"""What counts as a database outage, and waiting until it is over.

Contract: :func:`is_outage` says whether the same operation may succeed later without anyone changing anything
(connection lost, no primary, server shutting down, disk full, write concern not reached). Operations handed to
:func:`outlast` must be idempotent: a lost answer does not say whether the operation happened.

Outside: what to do with errors that waiting does not cure. They go to the caller as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConnectionFailure,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
    WTimeoutError,
)
from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

log = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF_FIRST_S = 0.05
BACKOFF_CAP_S = 2.0

OUTAGE_CODES = frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        24,  # LockTimeout
        50,  # MaxTimeMSExpired
        64,  # WriteConcernFailed
        89,  # NetworkTimeout
        91,  # ShutdownInProgress
        112,  # WriteConflict
        134,  # ReadConcernMajorityNotAvailableYet
        189,  # PrimarySteppedDown
        202,  # NetworkInterfaceExceededTimeLimit
        262,  # ExceededTimeLimit
        9001,  # SocketException
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11602,  # InterruptedDueToReplStateChange
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
        14031,  # OutOfDiskSpace
        17280,  # CannotReuseObject
    }
)
"""Server error codes that time cures (MongoDB's error_codes.yml)."""


def is_outage(error: BaseException) -> bool:
    """Whether waiting may cure ``error``."""
    if isinstance(error, BulkWriteError):
        details = error.details or {}
        return bool(details.get("writeConcernErrors")) or any(
            failure.get("code") in OUTAGE_CODES for failure in details.get("writeErrors", ())
        )
    if isinstance(error, AutoReconnect | ConnectionFailure | ExecutionTimeout | WTimeoutError | WriteConcernError):
        return True
    if isinstance(error, OperationFailure):
        return error.code in OUTAGE_CODES or error.has_error_label("RetryableWriteError")
    return isinstance(error, PyMongoError) and error.timeout


Observer = Callable[[bool], None]


class Availability:
    """Whether the database answers, as seen by those who use it, and who wants to know.

    Observers are called on the event loop with ``True`` when an outage begins and ``False`` when it is over; services
    pause consumption and flip their readiness there. They must not raise.
    """

    def __init__(self) -> None:
        self._observers: list[Observer] = []
        self._waiting = 0

    @property
    def available(self) -> bool:
        """False while any operation waits for the database to come back."""
        return self._waiting == 0

    def on_outage(self, observer: Observer) -> None:
        """Call ``observer`` at the beginning and at the end of every outage."""
        self._observers.append(observer)

    def lost(self) -> None:
        """One operation began to wait."""
        self._waiting += 1
        if self._waiting == 1:
            self._tell(down=True)

    def regained(self) -> None:
        """One operation ended its waiting."""
        self._waiting -= 1
        if self._waiting == 0:
            self._tell(down=False)

    def _tell(self, *, down: bool) -> None:
        for observer in self._observers:
            observer(down)


async def outlast(
    operation: Callable[[], Awaitable[T]],
    availability: Availability,
    *,
    first_s: float = BACKOFF_FIRST_S,
    cap_s: float = BACKOFF_CAP_S,
) -> T:
    """Run an idempotent operation; wait out every outage, however long it takes.

    The waits are random between 0 and an exponentially growing bound (full jitter), at most ``cap_s`` seconds.

    Raises:
        Exception: whatever ``operation`` raises that is not an outage.

    """
    try:
        return await operation()
    except PyMongoError as error:
        if not is_outage(error):
            raise
        log.warning("the database does not answer, waiting for it: %s", error)
    availability.lost()
    try:
        retrying = AsyncRetrying(
            retry=retry_if_exception(is_outage),
            wait=wait_random_exponential(multiplier=first_s, max=cap_s),
            reraise=True,
        )

        async def attempt() -> T:  # only a coroutine function is awaited by tenacity
            return await operation()

        result: T = await retrying(attempt)
        log.info("the database answers again")
        return result
    finally:
        availability.regained()
