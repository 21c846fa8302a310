"""Web pages of other origins: preflights, and the headers that let a page read an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.support.gateway import OpenGateway, fresh_database, open_gateway
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.schemas import topics

APP = "https://app.example.com"
GRAPH = {"_id": "agent", "version": "v1", "nodes": ["a"], "input_schema": None, "updated_at": now()}
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-api-key",
    "Access-Control-Request-Private-Network": "true",
}


@pytest.fixture(params=["*", f"http://localhost:3000, {APP}/", ""], ids=["any", "named", "local"])
async def served(request: pytest.FixtureRequest, mongodb_uri: str, kafka_bootstrap: str) -> AsyncIterator[OpenGateway]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    uri = fresh_database(mongodb_uri, "cors")
    async with open_gateway(uri, kafka_bootstrap, OpenGateway, [GRAPH], cors_allow_origins=request.param) as opened:
        opened.allows = request.param  # type: ignore[attr-defined]
        await until(opened.ready, "the gateway is ready")
        yield opened
        await opened.drop_database()


async def test_pages_of_other_origins(served: OpenGateway) -> None:
    allows: str = served.allows  # type: ignore[attr-defined]
    http = served.http
    for origin in (APP, "http://localhost:3000", "https://other.example.com"):
        is_local = "localhost" in origin
        allowed = allows == "*" or is_local or (bool(allows) and "other" not in origin)
        named = {"Access-Control-Allow-Origin": origin}
        if allows:
            named["Access-Control-Allow-Credentials"] = "true"
        expected = ({"Access-Control-Allow-Origin": "*"} if allows == "*" else named) if allowed else {}

        for path in ("/threads", "/runs", "/threads/t/runs/r/join", "/nowhere"):
            preflight = await http.options(path, headers={"Origin": origin, **PREFLIGHT})
            assert preflight.status_code == (204 if allowed else 403), path
            assert expected.items() <= dict_of(preflight.headers).items()
            if allowed:
                assert preflight.headers["Access-Control-Allow-Headers"] == PREFLIGHT["Access-Control-Request-Headers"]
                assert preflight.headers["Access-Control-Allow-Private-Network"] == "true"
                methods = set(preflight.headers["Access-Control-Allow-Methods"].split(", "))
                assert methods >= {"GET", "POST", "PUT", "PATCH", "DELETE"}
            else:
                assert preflight.json()["type"] == "urn:perdure:problem:origin-refused"
                assert "PERDURE_CORS_ALLOW_ORIGINS" in preflight.json()["detail"]
                assert not allowing(dict_of(preflight.headers))

        page = {"Origin": origin, "Sec-Fetch-Mode": "cors"}
        if not allowed:
            refused = await http.post("/runs", json={"assistant_id": "agent", "input": {}}, headers=page)
            assert refused.status_code == 403
            assert refused.json()["type"] == "urn:perdure:problem:origin-refused"
            assert not allowing(dict_of(refused.headers))
            continue
        started = await http.post("/runs", json={"assistant_id": "agent", "input": {}}, headers=page)
        answers = [
            started,
            await http.get(started.headers["Location"], headers=page),
            await http.get("/threads/none", headers=page),
            await http.get("/nowhere", headers=page),
            await http.patch("/ok", headers=page),
            await http.post("/runs", content=b"{", headers={**page, "Content-Type": "application/json"}),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 404, 404, 405, 400]
        for answer in answers:
            headers = dict_of(answer.headers)
            assert expected.items() <= headers.items()
            exposed = {name.strip().lower() for name in headers["Access-Control-Expose-Headers"].split(",")}
            wanted = {"content-location", "location", "x-pagination-total", "x-pagination-next", "preference-applied"}
            assert exposed >= wanted
    same_origin = await http.get("/ok")
    assert not allowing(dict_of(same_origin.headers))
    assert ("Origin" in same_origin.headers.get("Vary", "")) == (allows != "*")
    assert (await http.options("/ok")).status_code == 405, "not a preflight"


def dict_of(headers: object) -> dict[str, str]:
    return {"-".join(part.capitalize() for part in name.split("-")): value for name, value in dict(headers).items()}  # type: ignore[call-overload]


def allowing(headers: dict[str, str]) -> list[str]:
    return [name for name in headers if name.startswith("Access-Control-")]
