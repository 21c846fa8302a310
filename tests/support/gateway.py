"""A gateway in the test's own process, on a free port: ``open_gateway``."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from aiohttp import hdrs, web

from perdure.chassis import mongo
from perdure.gateway.app import make_app
from perdure.gateway.http.gunzip import AUTO_DECOMPRESS
from perdure.gateway.settings import GatewaySettings

NO_OPENSEARCH = "http://127.0.0.1:9"


@dataclass
class OpenGateway:
    """A running gateway and what tests ask it. A test module adds its own questions in a subclass."""

    url: str
    database: mongo.Database
    http: httpx.AsyncClient
    routes: frozenset[tuple[str, str]]
    """Method and path of everything that it serves, without ``HEAD``."""

    async def ready(self) -> bool:
        return (await self.http.get("/ready")).status_code == 200

    async def drop_database(self) -> None:
        await self.database.client.drop_database(self.database.name)


G = TypeVar("G", bound=OpenGateway)


def fresh_database(mongodb_uri: str, name: str) -> str:
    """The URI of a database that no other test uses; its name begins with ``name``."""
    return mongodb_uri.rsplit("/", 1)[0] + f"/{name}_{uuid.uuid4().hex}"


@asynccontextmanager
async def open_gateway(
    uri: str, kafka_bootstrap: str, kind: type[G], graphs: Sequence[Mapping[str, Any]] = (), **settings: Any
) -> AsyncIterator[G]:
    """A gateway on the database that the URI names; ``settings`` are fields of ``GatewaySettings``.

    ``graphs`` are registered before it starts: it looks for new ones only every few seconds. When it is opened it
    listens, which is not yet ``ready()``. There is no OpenSearch unless ``opensearch_url`` says so.
    """
    options = GatewaySettings(
        mongodb_uri=uri, kafka_bootstrap_servers=kafka_bootstrap, **{"opensearch_url": NO_OPENSEARCH} | settings
    )
    client = mongo.connect(uri)
    database = mongo.database(client, uri)
    if graphs:
        await database.graphs.insert_many(graphs)
    app = make_app(options)
    served = ((route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None)
    routes = frozenset((method, path) for method, path in served if method != hdrs.METH_HEAD)
    runner = web.AppRunner(app, access_log=None, auto_decompress=AUTO_DECOMPRESS)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            yield kind(url, database, http, routes)
    finally:
        await runner.cleanup()
        client.close()
