"""Signals and answers while the database is away: told quickly, and repeating them is safe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from tests.support.polling import until

from perdure.chassis.kafka.admin import TopicAdmin
from perdure.local.stack import Stack
from perdure.schemas import topics
from perdure.schemas.waits import Wait, WaitKind


async def until_accepted(send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    return await until(send, "the request is accepted again", holds=lambda answer: answer.status_code != 503)


@pytest.mark.parametrize("how", ["killed", "hanging"])
async def test_nothing_is_lost_or_doubled(
    own_mongodb: Stack, kafka_bootstrap: str, open_waiting: Any, problem_of: Any, how: str
) -> None:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    async with open_waiting(own_mongodb.environment()["PERDURE_MONGODB_URI"], kafka_bootstrap) as waiting:
        question = await waiting.question()
        event = await waiting.wait(Wait(kind=WaitKind.EVENT, events=("reply",)))

        async def signal() -> Any:
            path = f"/threads/{event['thread_id']}/signals/reply"
            return await waiting.http.post(path, json={"payload": 1}, headers={"Idempotency-Key": "one"})

        async def answer() -> Any:
            return await waiting.answer(question, "yes")

        if how == "killed":
            await asyncio.to_thread(own_mongodb.stop_server, "mongodb", kill=True)
        else:
            own_mongodb.pause("mongodb")
        try:
            for _ in range(2):  # before the outage is known, and after
                asked = time.monotonic()
                found = await asyncio.gather(signal(), answer(), waiting.http.get("/approvals"))
                assert time.monotonic() - asked < 10.0, "a request waited much longer than the store's time-out"
                for one in found:
                    problem_of(one, 503, "store-unavailable")
        finally:
            if how == "killed":
                await asyncio.to_thread(own_mongodb.start_server, "mongodb")
            else:
                own_mongodb.resume("mongodb")
        assert (await until_accepted(signal)).status_code == 202
        assert (await until_accepted(answer)).status_code in (200, 202)
        await until(signal, "the signal is delivered", holds=lambda answer: answer.json().get("delivered"))
        assert (await answer()).headers["Idempotent-Replayed"] == "true"
        assert await waiting.database.signals.count_documents({}) == 1
        assert await waiting.database.runs.count_documents({}) == 2
