"""A project with ``auth`` handlers, from outside: two users by the unmodified SDKs, on the whole system."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from httpx import HTTPStatusError
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import APIStatusError
from tests.support.javascript import run_script
from tests.support.polling import until

NAMES = ("gateway", "agent_step", "scheduler", "indexer")
GRAPH = """
from datetime import timedelta
from typing import TypedDict
from langgraph.graph import StateGraph
from perdure.sdk import sleep_for

class State(TypedDict, total=False):
    word: str
    before: dict
    after: dict

def told(config):
    given = config["configurable"]
    user = given["langgraph_auth_user"]
    return {"id": given["langgraph_auth_user_id"], "name": user.identity, "team": user["team"],
            "permissions": given["langgraph_auth_permissions"]}

def before(state: State, config) -> State:
    return {"before": told(config)}

def wait(state: State) -> State:
    sleep_for(timedelta(seconds=1))
    return {}

def after(state: State, config) -> State:
    return {"after": told(config)}

builder = StateGraph(State)
builder.add_sequence([("before", before), ("wait", wait), ("after", after)])
builder.set_entry_point("before")
graph = builder.compile()
"""
HANDLERS = """
from langgraph_sdk import Auth
auth = Auth()
USERS = {"a-token": {"identity": "ann", "team": "red", "permissions": ["threads"]}, "e-token": {"identity": "eve", "team": "blue"}}

@auth.authenticate
async def authenticate(authorization: str | None) -> dict:
    user = USERS.get((authorization or "").removeprefix("Bearer "))
    if user is None:
        raise Auth.exceptions.HTTPException(status_code=401, detail="Unauthorized")
    return user

@auth.on
async def own(ctx: Auth.types.AuthContext, value: dict):
    mine = {"owner": ctx.user.identity}
    value.setdefault("metadata", {}).update(mine)
    return mine

@auth.on.assistants
async def everybody(ctx: Auth.types.AuthContext, value: dict):
    return None
"""


@pytest.fixture
def system(start_system: Callable[..., Any], tmp_path: Path) -> Any:
    (tmp_path / "agent.py").write_text(GRAPH)
    (tmp_path / "guard.py").write_text(HANDLERS)
    file = tmp_path / "langgraph.json"
    project = {"dependencies": ["."], "graphs": {"agent": "./agent.py:graph"}, "auth": {"path": "./guard.py:auth"}}
    file.write_text(json.dumps(project))
    return start_system(names=NAMES, settings={"PERDURE_LANGGRAPH_CONFIG": str(file)})


def client_of(system: Any, token: str) -> LangGraphClient:
    return get_client(url=system.services.gateway_url, api_key=None, headers={"Authorization": f"Bearer {token}"})


async def test_two_users_by_the_sdks(system: Any) -> None:
    async with client_of(system, "a-token") as ann, client_of(system, "e-token") as eve:
        async with client_of(system, "no-token") as nobody:
            await nobody_gets_in(nobody)
        await each_sees_their_own(system, ann, eve)


async def nobody_gets_in(nobody: LangGraphClient) -> None:
    with pytest.raises(APIStatusError, match="Unauthorized") as unknown:
        await nobody.threads.create()
    assert unknown.value.status_code == 401


async def each_sees_their_own(system: Any, ann: LangGraphClient, eve: LangGraphClient) -> None:
    thread = await ann.threads.create(metadata={"owner": "eve"})
    assert thread["metadata"]["owner"] == "ann"
    thread_id = thread["thread_id"]
    parts = [
        part async for part in ann.runs.stream(thread_id, "agent", input={"word": "zanzibar"}, stream_mode="updates")
    ]
    assert parts[0].event == "metadata"
    run = (await ann.runs.list(thread_id))[-1]
    who = {"id": "ann", "name": "ann", "team": "red", "permissions": ["threads"]}

    async def woken() -> bool:
        return "after" in ((await ann.threads.get_state(thread_id))["values"] or {})

    await until(woken, "the run goes on after its sleep", 60)
    values = (await ann.threads.get_state(thread_id))["values"]
    assert (values["before"], values["after"]) == (who, who), "the run that wakes the thread acts for the same user"

    refused: list[Any] = [
        eve.threads.get(thread_id),
        eve.threads.get_state(thread_id),
        eve.threads.get_history(thread_id),
        eve.threads.update(thread_id, metadata={"owner": "eve"}),
        eve.threads.update_state(thread_id, {"word": "mine"}),
        eve.threads.delete(thread_id),
        eve.threads.copy(thread_id),
        eve.runs.create(thread_id, "agent", input={}),
        eve.runs.wait(thread_id, "agent", input={}),
        eve.runs.list(thread_id),
        eve.runs.get(thread_id, run["run_id"]),
        eve.runs.join(thread_id, run["run_id"]),
        eve.runs.cancel(thread_id, run["run_id"]),
        _all(eve.runs.join_stream(thread_id, run["run_id"])),
        _all(eve.runs.stream(thread_id, "agent", input={})),
        eve.crons.create_for_thread(thread_id, "agent", schedule="0 0 1 1 *", input={}),
    ]
    for number, answer in enumerate(await asyncio.gather(*refused, return_exceptions=True)):
        assert isinstance(answer, APIStatusError | HTTPStatusError), (number, answer)
        assert answer.response.status_code == 404, (number, answer)
    assert (await ann.threads.get(thread_id))["metadata"]["owner"] == "ann"

    assert [one["thread_id"] for one in await ann.threads.search()] == [thread_id]
    assert await eve.threads.search(metadata={"owner": "ann"}) == []
    assert await eve.threads.count() == 0
    assert len(await eve.assistants.search()) == 1
    cron = await ann.crons.create("agent", schedule="0 0 1 1 *", input={})
    assert await eve.crons.search() == []
    assert [one["cron_id"] for one in await ann.crons.search()] == [cron["cron_id"]]

    async def found(client: LangGraphClient) -> Any:
        return (await client.http.get("/search", params={"q": "zanzibar"}))["total"]

    async def indexed() -> bool:
        return bool(await found(ann))

    await until(indexed, "ann finds her states", 60)
    assert await found(eve) == 0
    assert (await eve.http.get("/search", params={"by": "node"}))["groups"] == []
    alone = await eve.runs.wait(None, "agent", input={"word": "hello"})
    assert alone["before"]["id"] == "eve"
    said = await asyncio.to_thread(run_script, "owners.mjs", system.services.gateway_url, thread_id)
    assert said == {"ann": "ann", "eve": 404, "found": [thread_id], "foundByEve": 1, "nobody": 401}


async def _all(events: Any) -> list[Any]:
    return [event async for event in events]
