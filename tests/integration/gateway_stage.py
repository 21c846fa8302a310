"""A gateway with one registered graph that no worker serves: what a worker would write, tests write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from tests.support.gateway import OpenGateway, fresh_database, open_gateway
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.schemas import topics

GRAPH = "agent"


class Gateway(OpenGateway):
    """A gateway with a database of its own."""

    async def start(self, path: str = "/runs", **body: Any) -> httpx.Response:
        given = {} if "command" in body else {"input": {}}
        return await self.http.post(path, json={"assistant_id": GRAPH, **given, **body})


@pytest.fixture(scope="module", name="gateway")
async def gateway_of_module(mongodb_uri: str, kafka_bootstrap: str) -> AsyncIterator[Gateway]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    settings: dict[str, Any] = {
        "gateway_body_limit_bytes": 8 * 1024 * 1024,
        "gateway_join_timeout_s": 2.0,
        "gateway_update_timeout_s": 3.0,
    }
    async with open_gateway(fresh_database(mongodb_uri, "gateway"), kafka_bootstrap, Gateway, **settings) as opened:
        await until(opened.ready, "the gateway is ready")
        empty = await opened.start()
        assert empty.status_code == 503
        assert empty.json()["type"] == "urn:perdure:problem:not-ready"
        assert "agent-step" in empty.json()["detail"]
        await opened.database.graphs.insert_one(
            {"_id": GRAPH, "version": "v1", "nodes": ["a"], "input_schema": {"type": "object"}, "updated_at": now()}
        )
        await until(partial(knows_graph, opened), "the gateway knows the graph")
        yield opened
        await opened.drop_database()


@pytest.fixture(name="sdk")
async def gateway_sdk(gateway: Gateway) -> AsyncIterator[LangGraphClient]:
    client = get_client(url=gateway.url, api_key=None)
    yield client
    await client.aclose()


async def knows_graph(gateway: Gateway) -> bool:
    return bool((await gateway.http.get("/graphs")).json())


async def new_thread(gateway: Gateway, **body: Any) -> str:
    response = await gateway.http.post("/threads", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["thread_id"])


async def end(gateway: Gateway, run_id: str, status: str, **fields: Any) -> None:
    """What agent-step writes at the end of a run."""
    await gateway.database.runs.update_one({"_id": run_id}, {"$set": {"status": status, "ended_at": now(), **fields}})
