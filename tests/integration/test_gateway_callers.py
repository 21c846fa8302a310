"""Who may do what at a gateway that asks: every row of the route table, without a key, with too few scopes, and across tenants."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.conftest import Waiting
from tests.support.gateway import fresh_database, open_gateway
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.gateway.auth.keys import FRESH_S
from perdure.gateway.auth.mode import AuthMode
from perdure.gateway.auth.policy import LOOK_S
from perdure.registry.api_keys import ApiKeys, new_key
from perdure.schemas import topics
from perdure.schemas.deadletter_documents import UNOWNED
from perdure.schemas.scopes import EVERY, SETS, Scope

GRAPH = {"_id": "agent", "version": "v1", "nodes": ["a"], "input_schema": None, "updated_at": now()}
URN = "urn:perdure:problem:"
IDS = re.compile(r"{(\w+)}")


class Asking(Waiting):
    """A gateway that asks who calls."""

    async def key(
        self, scopes: Iterable[Scope], *, tenant: str = "default", name: str = "test", **changes: Any
    ) -> dict[str, str]:
        document, text = new_key(
            tenant=tenant, name=name, scopes=scopes, created_by="test", expires_at=changes.get("expires_at")
        )
        await ApiKeys(self.database).create(document)
        return {"x-api-key": text}

    async def made(self, path: str, body: dict[str, Any], headers: dict[str, str], name: str) -> str:
        answer = await self.http.post(path, json=body, headers=headers)
        assert answer.is_success, answer.text
        return str(answer.json()[name])

    async def rows(self) -> list[tuple[str, str, Scope | None]]:
        """Method, path with ids that name nothing, and scope of every row; ``None``: exempt."""
        every = (await self.http.get("/openapi.json", headers=await self.key([]))).json()
        pages: list[tuple[str, str, Scope | None]] = [
            *(("GET", path, Scope.CONSOLE_READ) for path in ("/", "/console", "/console/batches", "/console/search")),
            ("GET", "/console/batches/b", Scope.CONSOLE_READ),
            ("GET", "/console/threads/t", Scope.CONSOLE_READ),
            *(("GET", path, Scope.API_READ) for path in ("/docs", "/docs/openapi.json", "/docs/start.js")),
        ]
        routes = [
            (method.upper(), IDS.sub("none-0000", path), Scope(row["x-perdure-scope"]) if row["security"] else None)
            for path, rows in every["paths"].items()
            for method, row in rows.items()
        ]
        assert len(routes) > 80
        return [*routes, *pages]


@pytest.fixture(scope="module")
async def asking(mongodb_uri: str, kafka_bootstrap: str) -> AsyncIterator[Asking]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    uri = fresh_database(mongodb_uri, "callers")
    async with open_gateway(uri, kafka_bootstrap, Asking, [GRAPH], auth=AuthMode.KEYS) as opened:
        await until(opened.ready, "the gateway is ready")
        yield opened
        await opened.drop_database()


async def test_every_row_asks_who_calls(asking: Asking) -> None:
    for method, path, scope in await asking.rows():
        answer = await asking.http.request(method, path, headers={"Perdure-Tenant": "default"})
        if scope is None:
            assert answer.status_code != 401, (method, path)
            continue
        assert answer.status_code == 401, (method, path)
        assert answer.json()["type"] == URN + "not-authorized"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    missing = await asking.http.get("/nowhere")
    assert missing.status_code == 401, "what there is, is told to callers only"


async def test_every_row_asks_for_its_scope(asking: Asking) -> None:
    """With every other scope the caller is refused; with this one alone it is not."""
    every = await asking.rows()
    for scope in sorted({scope for _, _, scope in every if scope is not None} - {Scope.API_READ}):
        without, alone = await asking.key(EVERY - {scope}), await asking.key([scope])
        for method, path in [(method, path) for method, path, wanted in every if wanted is scope]:
            refused = await asking.http.request(method, path, headers=without)
            assert refused.status_code == 403, (method, path)
            assert refused.json()["type"] == URN + "scope-missing"
            assert scope in refused.json()["detail"]
            if path.endswith("/stream"):
                continue
            answer = await asking.http.request(method, path, headers=alone)
            assert answer.status_code not in {401, 403, 500}, (method, path, answer.text)


async def test_a_key_acts_for_its_own_tenant(asking: Asking) -> None:
    ours, theirs = await asking.key(SETS["admin"]), await asking.key(SETS["admin"], tenant="theirs")
    made = (await asking.http.post("/threads", json={}, headers=ours)).json()["thread_id"]
    assert (await asking.http.get(f"/threads/{made}", headers=ours)).status_code == 200
    assert (await asking.http.get(f"/threads/{made}", headers=theirs)).status_code == 404
    named = await asking.http.get(f"/threads/{made}", headers={**theirs, "Perdure-Tenant": "default"})
    assert named.status_code == 403
    assert named.json()["type"] == URN + "tenant-refused"
    assert (await asking.http.get(f"/threads/{made}", headers={**ours, "Perdure-Tenant": "default"})).status_code == 200
    anybody = await asking.key([Scope.TENANTS_ANY, Scope.THREADS_READ], tenant="operators")
    assert (await asking.http.get(f"/threads/{made}", headers=anybody)).status_code == 404
    assert (
        await asking.http.get(f"/threads/{made}", headers={**anybody, "Perdure-Tenant": "default"})
    ).status_code == 200


async def test_of_another_tenant_there_is_nothing(asking: Asking) -> None:
    """Every row that names something answers a foreign thread, run, batch and so on as one that does not exist."""
    ours, theirs = await asking.key(SETS["admin"]), await asking.key(SETS["admin"], tenant="theirs")
    run = (await asking.http.post("/runs", json={"assistant_id": "agent", "input": {}}, headers=ours)).json()
    thread_id, run_id = run["thread_id"], run["run_id"]
    batch = {"assistant_id": "agent", "items": [{"input": {}}]}
    subscription = {"scope": "tenant", "kinds": ["failed"], "channel": "webhook", "target": "https://example.com/hook"}
    schedule = {"assistant_id": "agent", "schedule": "0 0 1 1 *", "input": {}}
    ids = {
        "thread_id": thread_id,
        "run_id": run_id,
        "batch_id": await asking.made("/batches", batch, ours, "batch_id"),
        "subscription_id": await asking.made("/subscriptions", subscription, ours, "subscription_id"),
        "cron_id": await asking.made("/runs/crons", schedule, ours, "cron_id"),
        "checkpoint_id": "1f0c0000-0000-6000-8000-000000000000",
        "name": "go",
    }
    ids["schedule_id"] = ids["cron_id"]
    ids["approval_id"] = (await asking.question(thread_id=thread_id))["_id"]
    ids["delivery_id"] = await asking.made(f"/subscriptions/{ids['subscription_id']}/test", {}, ours, "delivery_id")
    await asking.database.dead_letters.insert_one(dead_letter("t:0:3", "default"))
    ids["letter_id"] = "t:0:3"
    ids["key_id"] = ours["x-api-key"].split("_")[1]
    every = (await asking.http.get("/openapi.json", headers=ours)).json()["paths"]
    bodies = {"/threads/{thread_id}/state": {"values": {}}, "/threads/{thread_id}/signals/{name}": {}}
    tried = 0
    for path, rows in every.items():
        names = IDS.findall(path)
        if not names or names == ["assistant_id"]:
            continue
        for method, row in rows.items():
            where = IDS.sub(lambda found: ids[found[1]], path)
            body = bodies.get(path, {"assistant_id": "agent", "input": {}} if "runs" in path else {})
            if path.endswith("/state/checkpoint"):
                body = {"checkpoint": {"checkpoint_id": ids["checkpoint_id"]}}
            if path.endswith("/backfill"):
                body = {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}
            if path.endswith("/hold"):
                body = {"reason": "r", "by": "me"}
            if "approvals" in path:
                body = {"answer": True}
            if path.endswith("crons"):
                body = schedule
            given = {"json": body} if "requestBody" in row else {}
            answer = await asking.http.request(method.upper(), where, headers=theirs, **given)
            assert answer.status_code == 404, (method, path, answer.text)
            tried += 1
    assert tried > 45
    assert (await asking.http.get(f"/threads/{thread_id}/runs/{run_id}", headers=ours)).status_code == 200


async def test_ways_to_send_a_key(asking: Asking) -> None:
    key = (await asking.key([Scope.RUNS_READ]))["x-api-key"]
    ask = asking.http.get
    assert (await ask("/info", headers={"Authorization": f"Bearer {key}"})).status_code == 200
    assert (await ask("/info", headers={"authorization": f"bearer {key}"})).status_code == 200
    id_, secret = key.split("_")[1], key.split("_", 2)[2]
    other = "A" if key[-1] != "A" else "B"
    for text in ("", "pk_", key[:-1] + other, f"pk_{'a' * 16}_{secret}", key.upper(), f"pk_{id_}_"):
        refused = await ask("/info", headers={"x-api-key": text})
        assert refused.status_code == 401, text
        assert secret not in refused.text
    assert (await ask("/info", headers={"Authorization": f"Basic {key}"})).status_code == 401
    stored = await asking.database.api_keys.find_one({"_id": id_})
    assert stored is not None
    assert secret not in repr(stored)


async def test_the_life_of_a_key(asking: Asking) -> None:
    keys = ApiKeys(asking.database)
    late = await asking.key([Scope.RUNS_READ], expires_at=now() + timedelta(seconds=1))
    gone = await asking.key([Scope.RUNS_READ], name="gone")
    assert (await asking.http.get("/info", headers=late)).status_code == 200
    assert (await asking.http.get("/info", headers=gone)).status_code == 200

    async def used() -> Any:
        found = await asking.database.api_keys.find_one({"name": "gone"})
        return found and found["last_used"]

    assert await until(used, "its use is noted")

    async def refused(headers: dict[str, str]) -> bool:
        return (await asking.http.get("/info", headers=headers)).status_code == 401

    await until(lambda: refused(late), "the key has expired")
    assert "expired at" in (await asking.http.get("/info", headers=late)).json()["detail"]
    id_ = gone["x-api-key"].split("_")[1]
    assert await keys.revoke(id_, "theirs", "test") is None
    revoked = await keys.revoke(id_, "default", "key:boss")
    assert revoked is not None
    assert revoked["revoked_by"] == "key:boss"
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(lambda: refused(gone), "the key is revoked")
    assert loop.time() - began < FRESH_S + 2
    assert "was revoked at" in (await asking.http.get("/info", headers=gone)).json()["detail"]


async def test_keys_over_http(asking: Asking) -> None:
    """A key makes keys of its tenant that may do no more than itself."""
    boss = await asking.key([Scope.KEYS_MANAGE, Scope.RUNS_READ], name="boss", tenant="ours")
    body = {"name": "ci", "scopes": ["runs:read"], "expires_at": "2100-01-01T00:00:00Z"}
    made = await asking.http.post("/keys", json=body, headers=boss)
    assert made.status_code == 201
    key = made.json()
    assert (key["tenant"], key["created_by"], key["state"]) == ("ours", "key:boss", "valid")
    own = {"x-api-key": key["key"]}
    assert (await asking.http.get("/threads/none/runs", headers=own)).status_code == 404
    assert (await asking.http.get("/keys", headers=own)).status_code == 403
    for beyond in (["admin"], ["runs:write"], ["tenants:any"]):
        refused = await asking.http.post("/keys", json={"name": "x", "scopes": beyond}, headers=boss)
        assert refused.status_code == 403, beyond
    for wrong in ({"scopes": ["nothing"]}, {"scopes": []}, {"name": ""}, {"name": "a\n"}, {"expires_at": "tomorrow"}):
        refused = await asking.http.post("/keys", json={**body, **wrong}, headers=boss)
        assert refused.status_code == 422, wrong
    listed = (await asking.http.get("/keys", headers=boss)).json()["items"]
    assert [one["name"] for one in listed] == ["boss", "ci"]
    assert key["key"].split("_", 2)[2] not in repr(listed)
    stranger = await asking.key([Scope.KEYS_MANAGE], tenant="theirs")
    revoke = f"/keys/{key['key_id']}/revoke"
    assert (await asking.http.post(revoke, headers=stranger)).status_code == 404
    revoked = await asking.http.post(revoke, headers=boss)
    assert revoked.json()["revoked_by"] == "key:boss"

    async def refused_now() -> bool:
        return (await asking.http.get("/info", headers=own)).status_code == 401

    await until(refused_now, "the key is refused")


async def test_the_first_key_closes_an_open_gateway(mongodb_uri: str, kafka_bootstrap: str) -> None:
    uri = fresh_database(mongodb_uri, "callers")
    async with open_gateway(uri, kafka_bootstrap, Asking, [GRAPH]) as opened:
        await until(opened.ready, "the gateway is ready")
        assert (await opened.http.get("/info", headers={"x-api-key": "of another service"})).status_code == 200
        key = await opened.key([Scope.RUNS_READ])
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def closed() -> bool:
            return (await opened.http.get("/info")).status_code == 401

        await until(closed, "the gateway asks who calls")
        assert loop.time() - began < LOOK_S + 3
        assert (await opened.http.get("/info", headers=key)).status_code == 200
        await opened.database.api_keys.drop()
        await asyncio.sleep(LOOK_S + FRESH_S)
        assert await closed(), "it never opens again"
        await opened.drop_database()


async def test_it_is_closed_until_the_database_says_that_it_is_open(kafka_bootstrap: str) -> None:
    async with open_gateway(
        "mongodb://127.0.0.1:9/perdure", kafka_bootstrap, Asking, gateway_store_timeout_s=0.5
    ) as opened:
        answer = await opened.http.get("/info")
        assert answer.status_code == 503
        assert answer.json()["type"] == URN + "store-unavailable"
        assert (await opened.http.get("/ok")).status_code == 200


async def test_what_is_recorded_is_the_caller(asking: Asking) -> None:
    """A hold, a restore, the decision about a dead letter: ``by`` is the key, the body's name is on whose behalf."""
    boss = await asking.key(EVERY, name="backend")
    thread_id = await asking.made("/threads", {}, boss, "thread_id")
    held = await asking.http.put(f"/threads/{thread_id}/hold", json={"by": "boss", "reason": "r"}, headers=boss)
    assert (held.json()["by"], held.json()["on_behalf_of"]) == ("key:backend", "boss")
    unnamed = await asking.http.put(f"/threads/{thread_id}/hold", json={"reason": "r"}, headers=boss)
    assert (unnamed.json()["by"], unnamed.json()["on_behalf_of"]) == ("key:backend", None)
    question = await asking.question(thread_id=thread_id)
    path = f"/approvals/{question['_id']}"
    answered = await asking.http.post(path, json={"answer": True, "by": "boss"}, headers=boss)
    assert answered.status_code == 202, answered.text
    outcome = answered.json()["outcome"]
    assert (outcome["by"], outcome["on_behalf_of"]) == ("key:backend", "boss")
    repeated = await asking.http.post(path, json={"answer": True, "by": "boss"}, headers=boss)
    assert repeated.status_code == 200
    second = await asking.http.post(path, json={"answer": True, "by": "somebody else"}, headers=boss)
    assert second.status_code == 409
    letter = dead_letter("t:0:1", "default")
    await asking.database.dead_letters.insert_one(letter)
    dropped = await asking.http.post("/dead-letters/t:0:1/drop", json={"by": "boss"}, headers=boss)
    assert (dropped.json()["dropped_by"], dropped.json()["on_behalf_of"]) == ("key:backend", "boss")


async def test_letters_that_name_no_tenant_are_for_operators(asking: Asking) -> None:
    await asking.database.dead_letters.insert_one(dead_letter("t:0:2", UNOWNED))
    ours, operator = await asking.key(SETS["admin"]), await asking.key(EVERY, tenant="operators")
    assert (await asking.http.get("/dead-letters/t:0:2", headers=ours)).status_code == 404
    assert (await asking.http.get("/dead-letters/t:0:2", headers=operator)).status_code == 200
    assert (await asking.http.post("/dead-letters/t:0:2/drop", headers=ours)).status_code == 404
    listed = (await asking.http.get("/dead-letters", headers=operator)).json()["items"]
    assert "t:0:2" in [letter["id"] for letter in listed]


async def test_who_starts_runs_answers_no_question(asking: Asking) -> None:
    """A command, an update of the state and a subscription to questions are ways to answer; each asks for its own scope."""
    client, answers = await asking.key(SETS["client"]), await asking.key(SETS["chat"])
    thread_id = await asking.made("/threads", {}, client, "thread_id")
    for command in ({"resume": True}, {"goto": "a"}, {"update": {}}):
        body = {"assistant_id": "agent", "command": command}
        for path in ("runs", "runs/wait", "runs/stream"):
            refused = await asking.http.post(f"/threads/{thread_id}/{path}", json=body, headers=client)
            assert refused.status_code == 403, (command, path)
            assert Scope.APPROVALS_ANSWER in refused.json()["detail"]
    body = {"assistant_id": "agent", "command": {"resume": True}}
    assert (await asking.http.post(f"/threads/{thread_id}/runs", json=body, headers=answers)).status_code == 409
    given = {"values": {}}
    assert (await asking.http.post(f"/threads/{thread_id}/state", json=given, headers=client)).status_code == 403
    subscription = {"scope": "tenant", "channel": "webhook", "target": "https://example.com/hook"}
    asked = {**subscription, "kinds": ["approval_wanted"]}
    assert (await asking.http.post("/subscriptions", json=asked, headers=client)).status_code == 403
    plain = await asking.made("/subscriptions", {**subscription, "kinds": ["failed"]}, client, "subscription_id")
    widened = await asking.http.patch(f"/subscriptions/{plain}", json={"kinds": ["approval_wanted"]}, headers=client)
    assert widened.status_code == 403
    admin = await asking.key(SETS["admin"])
    links = await asking.made("/subscriptions", asked, admin, "subscription_id")
    moved = {"target": "https://evil.example/hook"}
    assert (await asking.http.patch(f"/subscriptions/{links}", json=moved, headers=client)).status_code == 403
    run = (await asking.http.post("/runs", json={"assistant_id": "agent", "input": {}}, headers=client)).json()
    reader = await asking.key(SETS["reader"])
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
    for way in ("join", "stream"):
        cut = await asking.http.get(f"{path}/{way}", params={"cancel_on_disconnect": "true"}, headers=reader)
        assert cut.status_code == 403, way


def dead_letter(id_: str, tenant: str) -> dict[str, Any]:
    return {
        "_id": id_,
        "tenant": tenant,
        "topic": "t",
        "partition": 0,
        "offset": int(id_[-1]),
        "key": b"k",
        "value": b"{}",
        "headers": [],
        "size": 2,
        "digest": "d",
        "reason": "payload",
        "detail": "d",
        "consumer": "c",
        "died_at": now(),
        "type": None,
        "thread_id": None,
        "redriven_from": None,
        "earlier_redrives": 0,
        "state": "open",
        "redrives": 0,
        "expires_at": now() + timedelta(days=1),
    }
