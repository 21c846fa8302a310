"""What counts as an outage, and that it is waited out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DuplicateKeyError,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    ServerSelectionTimeoutError,
    WriteConcernError,
)

from perdure.chassis.outage import Availability, is_outage, outlast


def bulk(**details: Any) -> BulkWriteError:
    return BulkWriteError({"writeErrors": [], "writeConcernErrors": [], **details})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AutoReconnect("x"), True),
        (NetworkTimeout("x"), True),
        (NotPrimaryError("x"), True),
        (ServerSelectionTimeoutError("x"), True),
        (WriteConcernError("x", 64), True),
        (OperationFailure("x", 11600), True),
        (OperationFailure("x", 13, {"errorLabels": ["RetryableWriteError"]}), True),
        (OperationFailure("unauthorized", 13), False),
        (DuplicateKeyError("x", 11000), False),
        (bulk(writeConcernErrors=[{"code": 64}]), True),
        (bulk(writeErrors=[{"code": 11000}]), False),
        (bulk(writeErrors=[{"code": 11000}, {"code": 14031}]), True),
        (ValueError("x"), False),
    ],
)
def test_classification(error: Exception, expected: bool) -> None:
    assert is_outage(error) is expected


async def test_an_outage_is_waited_out_and_told() -> None:
    availability = Availability()
    told: list[bool] = []
    availability.on_outage(told.append)
    failures = iter([AutoReconnect("1"), ServerSelectionTimeoutError("2"), NetworkTimeout("3")])

    async def operation() -> str:
        for failure in failures:
            raise failure
        return "done"

    both = await asyncio.gather(
        outlast(operation, availability, first_s=0.001), outlast(operation, availability, first_s=0.001)
    )
    assert both == ["done", "done"]
    assert told[0] is True
    assert told[-1] is False
    assert availability.available


async def test_what_waiting_does_not_cure_is_raised_also_after_an_outage() -> None:
    failures = iter([AutoReconnect("1"), OperationFailure("unauthorized", 13)])

    async def operation() -> None:
        raise next(failures)

    availability = Availability()
    with pytest.raises(OperationFailure, match="unauthorized"):
        await outlast(operation, availability, first_s=0.001)
    assert availability.available
