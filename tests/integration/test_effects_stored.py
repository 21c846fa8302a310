"""What was stored of an effect before, as a node meets it: under the id of an earlier version, or of a type that is not allowed."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from tests.integration.effect_stage import Stage, doing, opened

from perdure.sdk import ReceiptUnstorable


@pytest.fixture
async def stage(database_uri: str) -> AsyncIterator[Stage]:
    async with opened(database_uri) as made:
        yield made


async def move_to_earlier_id(stage: Stage, thread: str, key: str) -> str:
    """Store an effect as the version before did, which did not write the colons of a thread's id as ``%3A``; the id."""
    stored: Any = await stage.db.effects.find_one({"thread_id": thread, "key": key})
    assert stored["_id"] == f"{thread.replace(':', '%3A')}:{key}"
    earlier = f"{thread}:{key}"
    await stage.db.effects.delete_one({"_id": stored["_id"]})
    await stage.db.effects.insert_one({**stored, "_id": earlier})
    return earlier


def new_thread_id() -> str:
    return f"customer:{uuid.uuid4().hex}"


async def test_an_effect_that_is_stored_under_its_earlier_id_is_not_done_again(stage: Stage) -> None:
    thread = await stage.thread(new_thread_id())
    acts: list[str] = []

    def act(key: str) -> dict[str, Any]:
        acts.append(key)
        return {"number": len(acts)}

    assert await stage.play(thread, doing("buy", act)) == {"number": 1}
    earlier = await move_to_earlier_id(stage, thread, "buy")
    assert await stage.play(thread, doing("buy", act)) == {"number": 1}
    assert len(acts) == 1
    assert [one["_id"] async for one in stage.db.effects.find()] == [earlier]


async def test_an_attempt_under_the_earlier_id_is_followed_with_its_idempotency_key(stage: Stage) -> None:
    thread = await stage.thread(new_thread_id())
    acts: list[str] = []

    def break_off(key: str) -> None:
        acts.append(key)
        raise ConnectionResetError("no answer")

    def act(key: str) -> str:
        acts.append(key)
        return "done"

    with pytest.raises(ConnectionResetError):
        await stage.play(thread, doing("buy", break_off))
    earlier = await move_to_earlier_id(stage, thread, "buy")
    assert await stage.play(thread, doing("buy", act)) == "done"
    assert acts[1:] == [earlier], "a target that knows the first attempt by its key must recognise the second"
    (stored,) = await stage.db.effects.find().to_list(None)
    assert (stored["_id"], stored["state"], len(stored["attempts"])) == (earlier, "done", 2)


async def test_an_effect_of_another_thread_that_has_that_id_is_left_alone(stage: Stage) -> None:
    number = uuid.uuid4().hex
    other, thread = await stage.thread("customer"), await stage.thread(f"customer:{number}")
    assert await stage.play(other, doing(f"{number}:buy", lambda _: "theirs")) == "theirs"
    assert await stage.play(thread, doing("buy", lambda _: "ours")) == "ours"
    assert await stage.db.effects.count_documents({}) == 2


@dataclass
class Order:
    """A receipt of a type that no schema of a graph names."""

    number: int


ORDER = (Order.__module__, Order.__qualname__)


async def test_a_receipt_of_a_type_that_is_not_allowed_says_what_to_do_and_is_there_once_it_is_allowed(
    stage: Stage,
) -> None:
    thread = await stage.thread()
    acts: list[str] = []

    def act(key: str) -> Order:
        acts.append(key)
        return Order(7)

    allowed = stage.sdk
    stage.sdk = replace(allowed, receipts=JsonPlusSerializer(allowed_msgpack_modules=None))  # LangGraph's strict rule
    for _ in range(2):
        with pytest.raises(ReceiptUnstorable) as refused:
            await stage.play(thread, doing("order", act))
        message = str(refused.value)
        assert f"effect order of thread {thread}" in message.replace("'", "").replace('"', "")
        assert "happened and is not done again" in message
        assert f"{ORDER[0]}:{ORDER[1]}" in message, "the type, as PERDURE_ALLOWED_TYPES takes it"
        assert "Add it to PERDURE_ALLOWED_TYPES and retry the run" in message
    stage.sdk = replace(allowed, receipts=JsonPlusSerializer(allowed_msgpack_modules=[ORDER]))
    assert await stage.play(thread, doing("order", act)) == Order(7)
    assert len(acts) == 1
