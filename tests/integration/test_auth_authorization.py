"""Users that the project's ``auth`` handlers name: each reaches their own things, by every row of the route table."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.auth_stage import Guarded, guarded
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.errors import ConfigurationError
from perdure.gateway.auth.governed import GOVERNED, Bound
from perdure.registry.api_keys import ApiKeys, new_key
from perdure.schemas.auth_user import configurable
from perdure.schemas.scopes import SETS

URN = "urn:perdure:problem:"
RUN = {"assistant_id": "agent", "input": {}}
NAMED_BY_HEADER = """
from langgraph_sdk import Auth
auth = Auth()

@auth.authenticate
async def who(headers):
    return {"identity": "ann", "org": headers[b"x-org"].decode()}
"""
CRON = {"assistant_id": "agent", "schedule": "0 0 1 1 *"}


@pytest.fixture(scope="module")
async def gate(
    mongodb_uri: str, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    async with guarded(mongodb_uri, kafka_bootstrap, folder, auth_handlers_timeout_s=1.0) as opened:
        yield opened


@pytest.fixture(scope="module")
async def anns(gate: Guarded) -> dict[str, str]:
    """A thread of ann's with a run and a question, and her cron."""
    run = await gate.got("ann", "POST", "/runs", RUN)
    thread = run["thread_id"]
    cron = await gate.got("ann", "POST", "/runs/crons", CRON)
    question = {
        "_id": f"wait-{thread}", "tenant": "default", "thread_id": thread, "interrupt_id": "i", "run_id": run["run_id"],
        "graph_id": "agent", "assistant_id": run["assistant_id"], "metadata": {}, "nodes": ["a"], "kind": "approval",
        "status": "open", "opened_at": now(), "events": [], "assigned_to": None, "escalations": 0, "validation": None,
        "question": {"question": "May I?"},
    }  # fmt: skip
    await gate.database.waits.insert_one(question)
    return {
        "thread_id": thread,
        "run_id": run["run_id"],
        "cron_id": cron["cron_id"],
        "schedule_id": cron["cron_id"],
        "approval_id": str(question["_id"]),
        "checkpoint_id": "c",
        "name": "n",
        "assistant_id": "agent",
    }


async def test_a_user_becomes_a_caller(gate: Guarded) -> None:
    assert (await gate.http.get("/threads/t")).status_code == 401
    refused = await gate.http.get("/info")
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert refused.json()["detail"] == "Bring a token"
    assert (await gate.call("ann", "GET", "/info")).status_code == 200
    page = await gate.http.get("/console", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["Location"]) == (303, "/auth/login?then=/console"), "people sign in"
    wrong = await gate.http.get("/info", headers={"x-api-key": "pk_a_b", "Authorization": "Bearer ann"})
    assert wrong.status_code == 401, "a wrong key does not fall through to the handlers"


@pytest.mark.parametrize("who", ["slow", "broken", "nobody"])
async def test_handlers_that_fail_let_nobody_in(gate: Guarded, who: str) -> None:
    answer = await gate.call(who, "GET", "/info")
    assert (answer.status_code, answer.json()["type"]) == (503, URN + "auth-unavailable")
    assert "no database" not in answer.text, "what failed stays in the log"


async def test_what_handlers_put_is_protected(gate: Guarded) -> None:
    forged = {"metadata": {"owner": "ann", "a": 1}, "auth": {"owner": "ann"}}
    made = await gate.got("eve", "POST", "/threads", forged)
    assert made["metadata"] == {"owner": "eve", "a": 1}
    path = f"/threads/{made['thread_id']}"
    changed = await gate.got("eve", "PATCH", path, {"metadata": {"owner": "ann", "auth": {"owner": "ann"}, "b": 2}})
    assert (changed["metadata"]["owner"], changed["metadata"]["b"]) == ("eve", 2)
    assert (await gate.call("ann", "GET", path)).status_code == 404
    stored: Any = await gate.database.threads.find_one({"_id": made["thread_id"]})
    assert stored["auth"] == {"owner": "eve"}
    copy = await gate.got("eve", "POST", f"{path}/copy")
    assert copy["metadata"]["owner"] == "eve"
    assert (await gate.call("ann", "GET", f"/threads/{copy['thread_id']}")).status_code == 404


async def test_a_condition_on_a_list(gate: Guarded) -> None:
    metadata = {"members": ["ann", "bob"]}
    thread = (await gate.got("ann:by-team", "POST", "/threads", {"metadata": metadata}))["thread_id"]
    for who, found in (("ann", 1), ("bob", 1), ("eve", 0)):
        assert len(await gate.got(f"{who}:by-team", "POST", "/threads/search", {"ids": [thread]})) == found
        answer = await gate.call(f"{who}:by-team", "GET", f"/threads/{thread}")
        assert answer.status_code == (200 if found else 404)
    forged = {"metadata": {"members": ["ann", "bob", "eve"]}}
    assert (await gate.got("bob:by-team", "PATCH", f"/threads/{thread}", forged))["metadata"] == metadata
    assert (await gate.call("eve:by-team", "GET", f"/threads/{thread}")).status_code == 404
    by_owner = {"metadata": {"members": "ann"}}
    text = (await gate.got("eve", "POST", "/threads", by_owner))["thread_id"]
    assert (await gate.call("ann:by-team", "GET", f"/threads/{text}")).status_code == 404


async def test_reading_does_not_cancel(gate: Guarded, anns: dict[str, str]) -> None:
    path = f"/threads/{anns['thread_id']}/runs/{anns['run_id']}/join?timeout=0.01"
    assert (await gate.call("ann:read-only", "GET", path)).status_code == 202
    refused = await gate.call("ann:read-only", "GET", f"{path}&cancel_on_disconnect=true")
    assert (refused.status_code, refused.json()["type"]) == (403, URN + "auth-refused")


async def test_a_run_acts_for_its_user(gate: Guarded, anns: dict[str, str]) -> None:
    run: Any = await gate.database.runs.find_one({"_id": anns["run_id"]})
    given = configurable(run["user"])
    assert given["langgraph_auth_user_id"] == "ann"
    assert given["langgraph_auth_user"].identity == given["langgraph_auth_user"]["identity"] == "ann"
    forged = {**RUN, "config": {"configurable": {"langgraph_auth_user_id": "ann"}}}
    assert (await gate.call("eve", "POST", "/runs", forged)).status_code == 422
    schedule: Any = await gate.database.schedules.find_one({"_id": anns["cron_id"]})
    assert (configurable(schedule["user"])["langgraph_auth_user_id"], schedule["auth"]) == ("ann", {"owner": "ann"})


async def test_nobody_reaches_what_is_anothers_by_any_row(gate: Guarded, anns: dict[str, str]) -> None:
    """Every governed row with ann's ids in its path, asked by eve, who may do everything to her own."""
    described = (await gate.got("ann", "GET", "/openapi.json"))["paths"]
    rows = {
        row["operationId"]: (method.upper(), path, "requestBody" in row)
        for path, methods in described.items()
        for method, row in methods.items()
    }
    eve = "eve:may-delete,perdure:all"
    asked = 0
    before = await documents(gate, anns)
    for name, governed in GOVERNED.items():
        if governed.bound in (Bound.QUERY, Bound.THREAD_OF_BODY):
            continue
        method, path, has_body = rows[name]
        path = re.sub(r"{(\w+)}", lambda found: anns[found[1]], path)
        body = {**RUN, **CRON, "metadata": {"owner": "ann"}, "if_not_exists": "create"} if has_body else None
        answer = await gate.call(eve, method, path, body)
        assert answer.status_code == 404, (name, answer.text)
        assert answer.json()["type"] in {
            URN + one for one in ("unknown-thread", "unknown-schedule", "unknown-approval")
        }
        asked += 1
    assert asked > 35
    assert await documents(gate, anns) == before


async def documents(gate: Guarded, anns: dict[str, str]) -> list[Any]:
    thread = {"thread_id": anns["thread_id"]}
    database = gate.database
    return [
        await database.threads.find_one({"_id": anns["thread_id"]}),
        await database.runs.find(thread).to_list(None),
        await database.waits.find(thread).to_list(None),
        await database.signals.find(thread).to_list(None),
        await database.schedules.find_one({"_id": anns["cron_id"]}),
    ]


async def test_lists_have_the_users_own(gate: Guarded, anns: dict[str, str]) -> None:
    thread = anns["thread_id"]
    for who, own in (("ann", True), ("eve", False)):
        threads = await gate.got(who, "POST", "/threads/search", {"limit": 100})
        assert (thread in {one["thread_id"] for one in threads}) is own
        assert {one["metadata"]["owner"] for one in threads} == {who}
        asked = await gate.got(who, "POST", "/threads/search", {"metadata": {"owner": "ann"}, "ids": [thread]})
        assert len(asked) == own
        assert await gate.got(who, "POST", "/threads/count", {"ids": [thread]} if own else {}) >= 1
        crons = await gate.got(who, "POST", "/runs/crons/search", {})
        assert [one["cron_id"] for one in crons] == [anns["cron_id"]] * own
        assert await gate.got(who, "POST", "/runs/crons/count", {}) == own
        assert [one["schedule_id"] for one in await gate.got(who, "GET", "/schedules")] == [anns["cron_id"]] * own
        questions = (await gate.got(who, "GET", "/approvals"))["approvals"]
        assert [one["approval_id"] for one in questions] == [anns["approval_id"]] * own
        questions = (await gate.got(who, "GET", f"/approvals?thread_id={thread}"))["approvals"]
        assert len(questions) == own


async def test_stuck_threads_are_the_users_own(gate: Guarded) -> None:
    made = [(await gate.got(who, "POST", "/threads", {}))["thread_id"] for who in ("ann", "ann", "eve", "eve")]
    for number, thread in enumerate(made):
        mark = {
            "noticed_at": now() - timedelta(seconds=number),
            "since": now(),
            "code": "silent",
            "reason": "",
            "node": "a",
        }
        mark |= {"nodes": [], "run_id": "r", "expected_by": None, "wait_id": None}
        await gate.database.threads.update_one({"_id": thread}, {"$set": {"stuck": mark}})
    first = await gate.got("ann", "GET", "/stuck?limit=1")
    second = await gate.got("ann", "GET", f"/stuck?limit=10&cursor={first['cursor']}")
    assert [one["thread_id"] for one in (*first["items"], *second["items"])] == made[:2]
    assert (first["total"], second["cursor"]) == (2, None)


async def test_bodies_that_name_anothers_thread(gate: Guarded, anns: dict[str, str]) -> None:
    thread, eve = anns["thread_id"], "eve:may-delete"
    before = await documents(gate, anns)
    assert (await gate.got(eve, "POST", "/threads/prune", {"thread_ids": [thread]}))["pruned_count"] == 0
    for body in ({"thread_id": thread, "run_ids": [anns["run_id"]]}, {"status": "all"}):
        assert (await gate.call(eve, "POST", "/runs/cancel", body)).status_code == 404
    schedule = {"assistant_id": "agent", "cron": "0 0 1 1 *", "thread_id": thread}
    assert (await gate.call(eve, "POST", "/schedules", schedule)).status_code == 404
    for wanted in ("raise", "do_nothing"):
        taken = await gate.call(eve, "POST", "/threads", {"thread_id": thread, "if_exists": wanted})
        assert (taken.status_code, taken.json()["type"]) == (409, URN + "thread-exists")
    assert await documents(gate, anns) == before


async def test_an_idempotency_key_is_the_users_own(gate: Guarded) -> None:
    key = {"headers": {"Idempotency-Key": "one"}}
    ann, again = [await gate.got("ann", "POST", "/runs", RUN, headers={**key["headers"]}) for _ in range(2)]
    eve = await gate.got("eve", "POST", "/runs", RUN, headers={**key["headers"]})
    assert ann["run_id"] == again["run_id"] != eve["run_id"]
    assert eve["metadata"]["owner"] == "eve"


async def test_what_a_handler_refuses(gate: Guarded) -> None:
    thread = (await gate.got("ann", "POST", "/threads", {}))["thread_id"]
    refused = await gate.call("ann", "DELETE", f"/threads/{thread}")
    assert (refused.status_code, refused.json()["type"]) == (403, URN + "auth-refused")
    assert (await gate.call("ann:may-delete", "DELETE", f"/threads/{thread}")).status_code == 204


async def test_runs_of_one_request_are_all_the_users(gate: Guarded) -> None:
    runs = await gate.got("ann", "POST", "/runs/batch", [RUN, {**RUN, "metadata": {"owner": "eve"}}])
    for run in runs:
        thread: Any = await gate.database.threads.find_one({"_id": run["thread_id"]})
        assert thread["auth"] == {"owner": "ann"}
    made = await gate.got("ann", "POST", "/threads/anns-own/runs", {**RUN, "if_not_exists": "create"})
    assert (await gate.call("eve", "GET", f"/threads/{made['thread_id']}")).status_code == 404


async def test_other_operations_need_an_explicit_permission(gate: Guarded) -> None:
    for path in ("/batches", "/subscriptions", "/deliveries", "/dead-letters", "/metrics", "/keys", "/console"):
        refused = await gate.call("ann", "GET", path)
        assert (refused.status_code, refused.json()["type"]) == (403, URN + "scope-missing"), path
    assert (await gate.call("ann:batches:read", "GET", "/batches")).status_code == 403, "not the project's own words"
    assert (await gate.call("ann:perdure:batches:read", "GET", "/batches")).status_code == 200
    assert (await gate.call("ann:perdure:everything", "GET", "/info")).status_code == 503


async def test_keys_go_on_beside_the_handlers(gate: Guarded, anns: dict[str, str]) -> None:
    document, text = new_key(tenant="default", name="ci", scopes=SETS["client"], created_by="test", expires_at=None)
    await ApiKeys(gate.database).create(document)
    key = {"x-api-key": text}
    assert (await gate.http.get(f"/threads/{anns['thread_id']}", headers=key)).status_code == 200
    run = (await gate.http.post("/runs", json=RUN, headers=key)).json()
    stored: Any = await gate.database.runs.find_one({"_id": run["run_id"]})
    assert configurable(stored["user"])["langgraph_auth_user_id"] == "key:ci"
    assert (await gate.http.get("/info", headers={"x-api-key": "of-another-kind"})).status_code == 401
    both = {"x-api-key": "of-another-kind", "Authorization": "Bearer ann"}
    assert (await gate.http.get("/info", headers=both)).status_code == 200, (
        "x-api-key of another kind is for the handlers"
    )


async def test_the_process_comes_back(gate: Guarded, anns: dict[str, str]) -> None:
    thread = f"/threads/{anns['thread_id']}"
    run = await gate.got("ann", "POST", "/runs", RUN)
    stored: Any = await gate.database.runs.find_one({"_id": run["run_id"]})
    os.kill(configurable(stored["user"])["langgraph_auth_user"]["process"], signal.SIGKILL)

    async def answers() -> bool:
        answer = await gate.call("ann", "GET", thread)
        assert answer.status_code in (200, 503)
        return bool(answer.status_code == 200)

    await until(answers, "the handlers are back")
    assert (await gate.call("exit", "GET", "/info")).status_code == 503
    await until(answers, "the handlers are back after their end")
    stuck = asyncio.create_task(gate.call("stuck", "GET", "/info"))
    assert (await stuck).status_code == 503
    await until(answers, "the handlers are back after they stood still")


async def test_handlers_that_cannot_be_loaded_stop_the_start(
    mongodb_uri: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"importing ./guard\.py failed: ZeroDivisionError"):
        async with guarded(mongodb_uri, kafka_bootstrap, tmp_path, "1 / 0"):
            pytest.fail("it started")


async def test_a_field_of_the_user_names_the_tenant(mongodb_uri: str, kafka_bootstrap: str, tmp_path: Path) -> None:
    code = NAMED_BY_HEADER
    async with guarded(mongodb_uri, kafka_bootstrap, tmp_path, code, auth_user_tenant="org") as opened:
        made = (await opened.http.post("/threads", json={}, headers={"x-org": "acme"})).json()
        path = f"/threads/{made['thread_id']}"
        assert (await opened.http.get(path, headers={"x-org": "acme"})).status_code == 200
        assert (await opened.http.get(path, headers={"x-org": "other"})).status_code == 404
        assert (await opened.http.get(path, headers={"x-org": "no tenant"})).status_code == 503
