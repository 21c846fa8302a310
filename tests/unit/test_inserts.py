"""Inserting what is new: what counts as there already, and what must not pass for it."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.errors import BulkWriteError

from perdure.chassis.inserts import insert_new
from perdure.chassis.outage import is_outage

TAKEN = {"index": 1, "code": 11000, "errmsg": "E11000"}
NOT_REPLICATED = {"code": 64, "errmsg": "waiting for replication timed out"}


class Refusing:
    """A collection whose server answers so: a replica set that lost a member, which no local server can be made to be."""

    def __init__(self, **details: Any) -> None:
        self._details = {"writeErrors": [], "writeConcernErrors": []} | details
        self.name = "anything"

    async def insert_many(self, *_: Any, **__: Any) -> None:
        raise BulkWriteError(self._details)


async def test_what_is_there_is_named() -> None:
    assert await insert_new(Refusing(writeErrors=[TAKEN]), [{"_id": 1}, {"_id": 2}]) == [1]  # type: ignore[arg-type]


@pytest.mark.parametrize("taken", [[], [TAKEN]], ids=["alone", "beside a duplicate"])
async def test_a_write_that_no_majority_has_is_no_success_and_may_be_repeated(taken: list[Any]) -> None:
    refusing: Any = Refusing(writeErrors=taken, writeConcernErrors=[NOT_REPLICATED])
    with pytest.raises(BulkWriteError) as raised:
        await insert_new(refusing, [{"_id": 1}, {"_id": 2}])
    assert is_outage(raised.value)


@pytest.mark.parametrize("code", [121, 14031])
async def test_any_other_refusal_is_raised(code: int) -> None:
    with pytest.raises(BulkWriteError):
        await insert_new(Refusing(writeErrors=[TAKEN, TAKEN | {"code": code}]), [{"_id": 1}])  # type: ignore[arg-type]
