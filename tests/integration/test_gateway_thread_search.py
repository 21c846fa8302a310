"""Threads are searched and counted as the Agent Server does, on the real database."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from langgraph_sdk.client import LangGraphClient
from tests.integration.gateway_stage import (  # noqa: F401
    GRAPH,
    Gateway,
    end,
    gateway_of_module,
    gateway_sdk,
    new_thread,
)

from perdure.chassis.clock import now
from perdure.checkpoint import PerdureSaver
from perdure.registry.runs import assistant_id_of
from perdure.schemas.thread_http import VALUES_LIMIT

NOTE = "a note of more than a kilobyte, so that it is stored beside its checkpoint; " * 100


def asking_graph(saver: PerdureSaver) -> Any:
    def ask(_: dict[str, Any]) -> dict[str, Any]:
        return {"answer": interrupt("go on?")}

    return StateGraph(dict).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=saver)


async def searched(gateway: Gateway, **body: Any) -> list[dict[str, Any]]:
    response = await gateway.http.post("/threads/search", json=body)
    assert response.status_code == 200, response.text
    return list(response.json())


async def ids(gateway: Gateway, **body: Any) -> list[str]:
    return [thread["thread_id"] for thread in await searched(gateway, select=["thread_id"], **body)]


async def refused(gateway: Gateway, path: str = "/threads/search", **body: Any) -> str:
    response = await gateway.http.post(path, json=body)
    assert response.status_code == 422, response.text
    return str(response.json()["detail"])


async def test_an_item_is_the_thread_as_it_is_shown_alone(gateway: Gateway, sdk: LangGraphClient) -> None:
    made = [await new_thread(gateway, metadata={"test": "whole", "n": n}) for n in range(3)]
    graph = asking_graph(PerdureSaver(gateway.database))
    for thread_id in made[:2]:
        await graph.ainvoke({"note": NOTE + thread_id}, {"configurable": {"thread_id": thread_id}})
    found = await searched(gateway, metadata={"test": "whole"}, sort_by="created_at", sort_order="asc")
    assert found == [(await gateway.http.get(f"/threads/{thread_id}")).json() for thread_id in made]
    assert [bool(thread["interrupts"]) for thread in found] == [True, True, False]
    assert found[1]["values"]["note"] == NOTE + made[1]
    assert found[2]["values"] is None
    assert [one["thread_id"] for one in await sdk.threads.search(metadata={"test": "whole"})] == made[::-1]
    assert await sdk.threads.count(metadata={"test": "whole"}) == 3


async def test_pages_follow_each_other_and_say_what_comes(gateway: Gateway) -> None:
    made = [await new_thread(gateway, metadata={"test": "pages"}) for _ in range(5)]
    body = {"metadata": {"test": "pages"}, "limit": 2, "select": ["thread_id"]}
    seen: list[str] = []
    for offset, total, following in ((0, "3", "2"), (2, "5", "4"), (4, "5", None)):
        response = await gateway.http.post("/threads/search", json={**body, "offset": offset})
        assert (response.headers["X-Pagination-Total"], response.headers.get("X-Pagination-Next")) == (total, following)
        seen += [one["thread_id"] for one in response.json()]
    assert seen == made[::-1]
    assert await ids(gateway, metadata={"test": "pages"}, offset=9) == []


@pytest.mark.parametrize(
    ("metadata", "matches"),
    [
        ({"a": 1}, ["number"]),
        ({"a": "1"}, ["text"]),
        ({"a": None}, ["null"]),
        ({"a": [1, 2]}, ["list"]),
        ({"a": 2}, []),  # not the list that holds it
        ({"a": {"b": 1}}, ["object"]),
        ({"a": {"b": 1, "c": 2}}, ["object"]),
        ({"a": {"b": 2}}, []),
        ({"a": {}}, ["object"]),
        ({"a": True}, []),
        ({"a": 1, "other": 5}, []),
    ],
)
async def test_metadata_matches_by_containment(gateway: Gateway, metadata: dict[str, Any], matches: list[str]) -> None:
    if not await ids(gateway, metadata={"test": "containment"}):
        for name, value in {
            "number": 1, "text": "1", "null": None, "list": [1, 2], "object": {"b": 1, "c": 2},
        }.items():  # fmt: skip
            await new_thread(gateway, thread_id=f"containment-{name}", metadata={"test": "containment", "a": value})
        await new_thread(gateway, metadata={"test": "containment"})
    found = await ids(gateway, metadata={"test": "containment", **metadata})
    assert found == [f"containment-{name}" for name in matches]
    assert (
        await gateway.http.post("/threads/count", json={"metadata": {"test": "containment", **metadata}})
    ).json() == len(matches)


async def test_the_graph_is_found_however_it_was_set(gateway: Gateway) -> None:
    mark = {"test": "graph"}
    ran = (await gateway.start(metadata=mark)).json()["thread_id"]
    said = await new_thread(gateway, metadata={**mark, "graph_id": GRAPH, "assistant_id": assistant_id_of(GRAPH)})
    other = await new_thread(gateway, metadata={**mark, "graph_id": "other"})
    for key, value in (("graph_id", GRAPH), ("assistant_id", assistant_id_of(GRAPH))):
        found = await searched(gateway, metadata={**mark, key: value})
        assert [thread["thread_id"] for thread in found] == [said, ran]
        assert {thread["metadata"][key] for thread in found} == {value}
    assert await ids(gateway, metadata={**mark, "graph_id": "other"}) == [other]


async def test_the_status_is_the_one_that_is_shown(gateway: Gateway) -> None:
    mark = {"test": "status"}
    statuses = ["idle", "interrupted", "error"]
    made = {status: await new_thread(gateway, metadata=mark) for status in statuses}
    for status, thread_id in made.items():
        await gateway.database.threads.update_one({"_id": thread_id}, {"$set": {"status": status}})
    started = (await gateway.start(metadata=mark)).json()
    made["busy"] = started["thread_id"]
    for status, thread_id in made.items():
        assert [(one["thread_id"], one["status"]) for one in await searched(gateway, metadata=mark, status=status)] == [
            (thread_id, status)
        ]
        assert (await gateway.http.post("/threads/count", json={"metadata": mark, "status": status})).json() == 1
    in_order = sorted(made)
    for order, expected in (("asc", in_order), ("desc", in_order[::-1])):
        whole = await searched(gateway, metadata=mark, sort_by="status", sort_order=order)
        assert [one["status"] for one in whole] == expected
        pages = [
            await searched(gateway, metadata=mark, sort_by="status", sort_order=order, limit=1, offset=n)
            for n in range(4)
        ]
        assert [one["status"] for page in pages for one in page] == expected
    await end(gateway, started["run_id"], "success", settled=True)
    assert await ids(gateway, metadata=mark, status="busy") == []
    assert set(await ids(gateway, metadata=mark, status="idle")) == {made["idle"], made["busy"]}


async def test_every_order_goes_both_ways(gateway: Gateway) -> None:
    mark = {"test": "order"}
    made = [await new_thread(gateway, metadata=mark) for _ in range(3)]
    moment = now()
    for n, thread_id in enumerate(made):  # the last two are older than the windows in which the newest are looked for
        moved = {
            "updated_at": moment - timedelta(days=20 * n),
            "created_at": moment - timedelta(days=30 * n),
            "head": f"{n}",
        }
        await gateway.database.threads.update_one({"_id": thread_id}, {"$set": moved})
    by_field = {"updated_at": made[::-1], "created_at": made[::-1], "state_updated_at": made, "thread_id": sorted(made)}
    for field, rising in by_field.items():
        assert await ids(gateway, metadata=mark, sort_by=field, sort_order="asc") == rising, field
        assert await ids(gateway, metadata=mark, sort_by=field, sort_order="DESC") == rising[::-1], field
        assert await ids(gateway, metadata=mark, sort_by=field) == rising[::-1], field
    assert await ids(gateway, metadata=mark, ids=[made[1], "unknown"]) == [made[1]]


async def test_select_and_extract_show_parts(gateway: Gateway) -> None:
    thread_id = await new_thread(gateway, metadata={"test": "parts", "owner": {"name": "Ada"}})
    graph = asking_graph(PerdureSaver(gateway.database))
    await graph.ainvoke(
        {"messages": [{"content": "one"}, {"content": "two"}]}, {"configurable": {"thread_id": thread_id}}
    )
    paths = {
        "last": "values.messages[-1].content",
        "owner": "metadata.owner.name",
        "none": "values.messages[7].content",
    }
    (found,) = await searched(gateway, ids=[thread_id], select=["thread_id", "status"], extract=paths)
    assert found == {
        "thread_id": thread_id,
        "status": "idle",
        "extracted": {"last": "two", "owner": "Ada", "none": None},
    }
    assert "extract" in await refused(gateway, extract={"x": "thread_id"})
    assert "extract" in await refused(gateway, extract={"not a name": "values"})
    assert "select" in await refused(gateway, select=["password"])


async def test_values_are_matched_among_few_threads_and_else_refused(gateway: Gateway) -> None:
    mark = {"test": "values"}
    made = [await new_thread(gateway, metadata=mark) for _ in range(3)]
    graph = asking_graph(PerdureSaver(gateway.database))
    for n, thread_id in enumerate(made[:2]):
        await graph.ainvoke({"order": {"number": n, "kind": "x"}}, {"configurable": {"thread_id": thread_id}})
    assert await ids(gateway, metadata=mark, values={"order": {"number": 1}}) == [made[1]]
    assert await ids(gateway, metadata=mark, values={"order": {"kind": "x"}}, offset=1) == [made[0]]
    counted = await gateway.http.post("/threads/count", json={"metadata": mark, "values": {"order": {"kind": "x"}}})
    assert counted.json() == 2
    moment = now()
    await gateway.database.threads.insert_many(
        [
            {
                "_id": f"many-{n}",
                "tenant": "default",
                "metadata": {"test": "many"},
                "created_at": moment,
                "updated_at": moment,
            }
            for n in range(VALUES_LIMIT + 1)
        ]
    )
    for path in ("/threads/search", "/threads/count"):
        detail = await refused(gateway, path, metadata={"test": "many"}, values={"a": 1})
        assert str(VALUES_LIMIT) in detail


async def test_other_tenants_and_archived_threads_are_left_out(gateway: Gateway) -> None:
    mark = {"test": "hidden"}
    seen, archived = [await new_thread(gateway, metadata=mark) for _ in range(2)]
    away = {"archive": {"state": "archived", "at": now(), "object": "x"}}
    await gateway.database.threads.update_one({"_id": archived}, {"$set": away})
    assert await ids(gateway, metadata=mark) == [seen]
    other = await gateway.http.post("/threads/search", json={"metadata": mark}, headers={"Perdure-Tenant": "other"})
    assert other.json() == []


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"limit": 1001}, "limit"),
        ({"limit": -1}, "limit"),
        ({"offset": -1}, "offset"),
        ({"sort_by": "values"}, "sort_by"),
        ({"sort_order": "up"}, "sort_order"),
        ({"status": "sleeping"}, "status"),
        ({"metadata": {"a.b": 1}}, "a.b"),
        ({"metadata": {"a": {"$gt": 1}}}, "$gt"),
        ({"metadata": []}, "metadata"),
        ({"ids": ["not an id"]}, "ids"),
    ],
)
async def test_what_cannot_be_searched_is_refused(gateway: Gateway, body: dict[str, Any], named: str) -> None:
    assert named in await refused(gateway, **body)
