"""A gateway with threads that wait, without the services that would wake them: ``waiting``."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.support.gateway import OpenGateway, fresh_database, open_gateway
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.registry.answer_links import AnswerLinks
from perdure.registry.runs import assistant_id_of, new_id
from perdure.registry.waits import wait_documents
from perdure.schemas import topics
from perdure.schemas.events import InterruptInfo
from perdure.schemas.problem import Problem
from perdure.schemas.waits import Question, Wait, WaitKind, digest

END_OF_DAY = timedelta(seconds=30)


@pytest.fixture(scope="module")
def today() -> datetime:
    """When the day began, UTC; near its end, that of the next, so that "yesterday" means one day throughout a module."""
    left = timedelta(days=1) - (now() - midnight())
    if left < END_OF_DAY:
        time.sleep(left.total_seconds())
    return midnight()


def midnight() -> datetime:
    return now().replace(hour=0, minute=0, second=0, microsecond=0)


class Waiting(OpenGateway):
    """A gateway with a database of its own."""

    async def thread(self, tenant: str = "default") -> str:
        made = await self.http.post("/threads", json={}, headers={"Perdure-Tenant": tenant})
        assert made.status_code == 200, made.text
        return str(made.json()["thread_id"])

    async def wait(self, wait: Wait, **fields: Any) -> dict[str, Any]:
        """What agent-step stores when a run ends at a wait; ``fields`` are set in its document."""
        return await self.interrupt(wait.value(), **fields)

    async def interrupt(
        self,
        value: Any,
        response_schema: dict[str, Any] | None = None,
        *,
        tenant: str = "default",
        graph: str = "agent",
        **fields: Any,
    ) -> dict[str, Any]:
        """As ``wait``, for any interrupt."""
        run = {
            "_id": new_id(),
            "tenant": tenant,
            "thread_id": fields.pop("thread_id", None) or await self.thread(tenant),
            "graph_id": graph,
            "graph_version": "v1",
            "assistant_id": assistant_id_of(graph),
            "metadata": {"team": "red"},
        }
        interrupt = InterruptInfo(id=uuid.uuid4().hex, value=value, response_schema=response_schema)
        (document,) = wait_documents(run, [interrupt], ["asks"], now())
        stored: dict[str, Any] = {**document, **fields}
        await self.database.waits.insert_one(stored)
        return stored

    async def question(
        self,
        schema: dict[str, Any] | None = None,
        *,
        question: str = "May I?",
        details: dict[str, Any] | None = None,
        action: Any = None,
        events: tuple[str, ...] = (),
        due_at: datetime | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        asked = Question(
            question=question,
            answer_schema=schema,
            details={"why": "because"} if details is None else details,
            assigned_to=fields.get("assigned_to"),
            action=action,
            action_digest=digest(action) if action is not None else None,
        )
        wait = Wait(kind=WaitKind.APPROVAL, question=asked, events=events, due_at=due_at)
        return await self.wait(wait, **fields)

    async def answer(self, wait: dict[str, Any], answer: Any, by: str = "ann", **more: Any) -> httpx.Response:
        return await self.http.post(f"/approvals/{wait['_id']}", json={"answer": answer, "by": by} | more)


def problem_of(response: httpx.Response, status: int, name: str) -> Problem:
    assert response.status_code == status, response.text
    problem = Problem.model_validate_json(response.content)
    assert problem.type == f"urn:perdure:problem:{name}"
    return problem


@pytest.fixture(name="problem_of")
def _problem_of() -> Any:
    return problem_of


@asynccontextmanager
async def open_waiting(uri: str, kafka_bootstrap: str, **more: Any) -> AsyncIterator[Waiting]:
    settings = {"gateway_store_timeout_s": 2.0} | more
    async with open_gateway(uri, kafka_bootstrap, Waiting, **settings) as opened:
        await until(opened.ready, "the gateway is ready")
        yield opened


@pytest.fixture(name="open_waiting", scope="session")
def _open_waiting() -> Any:
    """Like ``waiting``, on servers of the test's own: ``async with open_waiting(uri, kafka, **settings)``."""
    return open_waiting


LINKS = AnswerLinks(["of these tests and of nothing else"], "http://127.0.0.1:1", "mail.example.com")
"""The links of ``linking``; its gateway is elsewhere, so take the path only."""


def link_to(wait: Mapping[str, Any], recipient: str = "ann@example.com", expires_at: datetime | None = None) -> str:
    """The path of the page where ``recipient`` answers a question."""
    return urlsplit(
        LINKS.url(
            wait_id=wait["_id"],
            tenant=wait["tenant"],
            recipient=recipient,
            expires_at=expires_at or now() + timedelta(hours=8),
        )
    ).path


@pytest.fixture(scope="module")
async def linking(mongodb_uri: str, kafka_bootstrap: str) -> AsyncIterator[Waiting]:
    """As ``waiting``, with links to answer questions and with reply addresses (``LINKS``)."""
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    uri = fresh_database(mongodb_uri, "linking")
    settings = {
        "link_secret": "of these tests and of nothing else",
        "public_url": "http://127.0.0.1:1",
        "mail_domain": "mail.example.com",
        "inbound_secret": "between the mail server and us",
    }
    async with open_waiting(uri, kafka_bootstrap, **settings) as opened:
        yield opened
        await opened.drop_database()


@pytest.fixture(name="link_to", scope="session")
def _link_to() -> Any:
    return link_to


@pytest.fixture(name="links", scope="session")
def _links() -> AnswerLinks:
    return LINKS


@pytest.fixture(scope="module")
async def waiting(mongodb_uri: str, kafka_bootstrap: str) -> AsyncIterator[Waiting]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    uri = fresh_database(mongodb_uri, "waiting")
    async with open_waiting(uri, kafka_bootstrap) as opened:
        yield opened
        await opened.drop_database()
