"""The process of a project's ``auth`` handlers: what they may ask for, what they answer, and that it fails closed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until

from perdure.auth_handlers.handlers import load_handlers
from perdure.chassis import json
from perdure.chassis.errors import ConfigurationError
from perdure.gateway.auth.handler_process import HandlerProcess
from perdure.gateway.http.problems import RequestProblem

HANDLERS = """
import asyncio, os
from langgraph_sdk import Auth
auth = Auth()

@auth.authenticate
async def authenticate(authorization, headers, method, path, path_params, query_params):
    if authorization == "Bearer slow":
        await asyncio.sleep(60)
    if authorization == "Bearer broken":
        raise RuntimeError("no database")
    if authorization == "Bearer exit":
        os._exit(3)
    if authorization is None:
        raise Auth.exceptions.HTTPException(401, detail="Bring a token", headers={"X-Why": "none"})
    print("user code may print")
    seen = [method, path, path_params, query_params, headers[b"authorization"].decode(), os.getpid()]
    return {"identity": authorization.removeprefix("Bearer "), "permissions": ["batches:read"], "seen": seen}

@auth.on
async def deny(ctx, value):
    return False

@auth.on.threads
async def own(ctx, value):
    value.setdefault("metadata", {})["owner"] = ctx.user.identity
    assert value["metadata"].get("color") != "black", "no black threads"
    return {"owner": ctx.user["identity"]}

@auth.on.threads.delete
async def never(ctx, value):
    raise Auth.exceptions.HTTPException(409, detail="Nothing is deleted here")

@auth.on.assistants.read
async def read(ctx, value):
    return ctx.permissions == ["batches:read"] and ctx.resource == "assistants" and ctx.action == "read"

@auth.on.crons.create
async def wrong(ctx, value):
    return 7
"""


def project(folder: Path, code: str = HANDLERS, path: str = "./guard.py:auth") -> Path:
    (folder / "guard.py").write_text(code)
    file = folder / "langgraph.json"
    file.write_bytes(json.dumps({"graphs": {"agent": "./agent.py:graph"}, "auth": {"path": path}}))
    return file


@asynccontextmanager
async def running(file: Path, timeout_s: float = 30.0) -> AsyncIterator[HandlerProcess]:
    process = HandlerProcess(file, timeout_s)
    task = asyncio.create_task(process.run())
    try:
        await until(lambda: process.answers, "the handlers are loaded")
        yield process
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def request(authorization: str | None) -> dict[str, Any]:
    headers = {} if authorization is None else {"authorization": authorization}
    return {
        "request": {
            "method": "GET",
            "path": "/threads/t",
            "path_params": {"thread_id": "t"},
            "query_params": {"a": "1"},
        }
        | {"headers": headers}
    }


def about(resource: str, action: str, value: dict[str, Any] | None = None) -> dict[str, Any]:
    user = {"identity": "ann", "permissions": ["batches:read"]}
    return {"user": user, "resource": resource, "action": action, "value": value or {}}


@pytest.fixture(scope="module")
async def handlers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HandlerProcess]:
    async with running(project(tmp_path_factory.mktemp("project"))) as process:
        yield process


async def test_a_request_becomes_a_user(handlers: HandlerProcess) -> None:
    answers = await asyncio.gather(*(handlers.ask("authenticate", request(f"Bearer u{n}")) for n in range(50)))
    assert [answer["user"]["identity"] for answer in answers] == [f"u{n}" for n in range(50)]
    seen = answers[0]["user"]["seen"]
    assert seen[:5] == ["GET", "/threads/t", {"thread_id": "t"}, {"a": "1"}, "Bearer u0"]
    assert seen[5] != os.getpid(), "in a process of its own"


async def test_a_handler_refuses(handlers: HandlerProcess) -> None:
    answer = await handlers.ask("authenticate", request(None))
    assert answer["refused"] == {"status": 401, "detail": "Bring a token", "headers": {"X-Why": "none"}}


async def test_the_most_specific_handler_decides(handlers: HandlerProcess) -> None:
    created = await handlers.ask("authorize", about("threads", "create", {"metadata": {"a": 1}}))
    assert created["filter"] == {"owner": "ann"}
    assert created["changed"] == {"metadata": {"a": 1, "owner": "ann"}}
    assert created["written"] == {"owner": "ann"}
    same = await handlers.ask("authorize", about("threads", "create", {"metadata": {"a": 1, "owner": "ann"}}))
    assert (same["changed"], same["written"]) == ({}, {"owner": "ann"}), "put, though the client had it already"
    deleted = await handlers.ask("authorize", about("threads", "delete"))
    assert deleted["refused"]["status"] == 409
    black = await handlers.ask("authorize", about("threads", "create", {"metadata": {"color": "black"}}))
    assert black["refused"] == {"status": 403, "detail": "no black threads", "headers": {}}
    assert (await handlers.ask("authorize", about("assistants", "read")))["filter"] == {}
    assert (await handlers.ask("authorize", about("assistants", "search")))["refused"]["status"] == 403


@pytest.mark.parametrize(
    ("ask", "content"), [("authenticate", request("Bearer broken")), ("authorize", about("crons", "create"))]
)
async def test_a_handler_that_fails_lets_nobody_in(handlers: HandlerProcess, ask: str, content: dict[str, Any]) -> None:
    with pytest.raises(RequestProblem, match="a handler failed") as failed:
        await handlers.ask(ask, content)
    assert failed.value.status == 503
    assert "no database" not in str(failed.value), "what failed stays in the log"


async def test_a_process_that_ends_is_started_again(tmp_path: Path) -> None:
    async with running(project(tmp_path)) as process:
        first = await process.ask("authenticate", request("Bearer ann"))
        with pytest.raises(RequestProblem, match="being started again"):
            await process.ask("authenticate", request("Bearer exit"))
        with pytest.raises(RequestProblem, match="being started"):
            await process.ask("authenticate", request("Bearer ann"))
        await until(lambda: process.answers, "the handlers are loaded again")
        second = await process.ask("authenticate", request("Bearer ann"))
        assert first["user"]["seen"][5] != second["user"]["seen"][5]
        os.kill(second["user"]["seen"][5], signal.SIGKILL)
        await until(lambda: not process.answers, "the end is noticed")
        await until(lambda: process.answers, "the handlers are loaded once more")


async def test_a_slow_handler_lets_nobody_in(tmp_path: Path) -> None:
    async with running(project(tmp_path), timeout_s=0.3) as process:
        with pytest.raises(RequestProblem, match=r"did not answer within 0\.3 seconds"):
            await process.ask("authenticate", request("Bearer slow"))


@pytest.mark.parametrize(
    ("code", "path", "said"),
    [
        (HANDLERS, "./guard.py:other", "has no variable 'other'"),
        (HANDLERS, "./missing.py:auth", "missing.py does not exist"),
        ("auth = 7", "./guard.py:auth", "is a int, not a langgraph_sdk.Auth"),
        ("from langgraph_sdk import Auth\nauth = Auth()", "./guard.py:auth", "has no handler: decorate one"),
        (
            "from langgraph_sdk import Auth\nauth = Auth()\n@auth.authenticate\nasync def a(token): return 'a'",
            "./guard.py:auth",
            "asks for token. Possible: authorization",
        ),
        ("import nothing_like_this", "./guard.py:auth", "nothing_like_this"),
    ],
)
def test_mistakes_are_told_at_the_start(tmp_path: Path, code: str, path: str, said: str) -> None:
    file = project(tmp_path, code, path)
    sys.modules.pop("guard", None)
    with pytest.raises(ConfigurationError) as mistake:
        load_handlers(file)
    assert said in str(mistake.value)
    assert str(file) in str(mistake.value)
