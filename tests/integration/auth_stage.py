"""A project whose ``auth`` handlers let each user at their own things, and a gateway that asks them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.gateway import OpenGateway, fresh_database, open_gateway
from tests.support.polling import until

from perdure.chassis import json
from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.schemas import topics

GRAPH = {"_id": "agent", "version": "v1", "nodes": ["a"], "input_schema": None, "updated_at": now()}
OWNERS = """
import asyncio, os, time
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def authenticate(authorization, headers):
    if authorization == "Bearer slow":
        await asyncio.sleep(60)
    if authorization == "Bearer stuck":
        time.sleep(60)
    if authorization == "Bearer broken":
        raise RuntimeError("no database")
    if authorization == "Bearer nobody":
        return {"identity": ""}
    if authorization == "Bearer exit":
        os._exit(3)
    if not (authorization or "").startswith("Bearer "):
        raise Auth.exceptions.HTTPException(401, detail="Bring a token", headers={"WWW-Authenticate": "Bearer"})
    name, _, permissions = authorization.removeprefix("Bearer ").partition(":")
    named = [one for one in permissions.split(",") if one]
    return {"identity": name, "permissions": named, "org": headers.get(b"x-org", b"").decode(), "process": os.getpid()}

@auth.on
async def own(ctx, value):
    if "by-team" in ctx.permissions:
        return {"members": {"$contains": ctx.user.identity}}
    mine = {"owner": ctx.user.identity}
    value.setdefault("metadata", {}).update(mine)
    return mine

@auth.on.assistants
async def everybody(ctx, value):
    return True

@auth.on.threads.update
async def changes(ctx, value):
    return False if "read-only" in ctx.permissions else await own(ctx, value)

@auth.on.threads.delete
async def no_deletion(ctx, value):
    if "may-delete" not in ctx.permissions:
        return False
    return {"owner": ctx.user["identity"]}
"""


class Guarded(OpenGateway):
    """A gateway that asks the project's handlers."""

    async def call(self, who: str, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """A request of a user; the answer."""
        headers = {"Authorization": f"Bearer {who}", **more.pop("headers", {})}
        return await self.http.request(method, path, json=body, headers=headers, **more)

    async def got(self, who: str, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """What a request of a user is answered, which succeeds."""
        answer = await self.call(who, method, path, body, **more)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None


def auth_project(folder: Path, code: str = OWNERS, **block: Any) -> Path:
    """A ``langgraph.json`` that names handlers."""
    (folder / "guard.py").write_text(code)
    file = folder / "langgraph.json"
    file.write_bytes(
        json.dumps({"graphs": {"agent": "./agent.py:graph"}, "auth": {"path": "./guard.py:auth", **block}})
    )
    return file


@asynccontextmanager
async def guarded(
    mongodb_uri: str, kafka_bootstrap: str, folder: Path, code: str = OWNERS, **settings: Any
) -> AsyncIterator[Guarded]:
    """A gateway with the handlers of ``code``."""
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    settings = {"langgraph_config": auth_project(folder, code)} | settings
    async with open_gateway(
        fresh_database(mongodb_uri, "guarded"), kafka_bootstrap, Guarded, [GRAPH], **settings
    ) as opened:
        await until(opened.ready, "the gateway is ready")
        yield opened
        await opened.drop_database()
