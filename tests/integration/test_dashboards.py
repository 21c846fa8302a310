"""Every query of the saved objects, taken from the file and run on a real OpenSearch: each finds exactly what it should.

The file is read as Dashboards reads it: the query string goes to ``query_string``, the aggregations of a visualisation nest in the
order of its buckets, and the time range is a filter on the index pattern's time field, where it has one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.chassis.opensearch import OpenSearch
from perdure.indexer.bulk import newest_item, state_item
from perdure.indexer.domain import document_of, newest
from perdure.indexer.redaction import Redaction
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.writer import Writer
from perdure.schemas.dashboard_objects import FIELDS, field
from perdure.schemas.dashboards import FILE
from perdure.schemas.events import (
    CheckpointSaved,
    ErrorInfo,
    Event,
    InterruptInfo,
    RunFailed,
    RunInterrupted,
    RunSucceeded,
    StuckCode,
    ThreadRecovered,
    ThreadStuck,
)
from perdure.schemas.index import STATES, THREADS

OBJECTS = {
    one["id"]: one for line in (Path(__file__).parents[2] / FILE).read_text().splitlines() for one in [json.loads(line)]
}
QUERIED = [id_ for id_, one in OBJECTS.items() if one["type"] in ("search", "visualization", "query")]
TENANT = f"boards-{uuid.uuid4().hex[:8]}"


def event(kind: type[Event], thread: str, seq: int, at: datetime, **fields: Any) -> Event:
    graph = fields.pop("graph", "crm")
    shared = {
        "tenant": TENANT, "thread_id": f"{thread}-{TENANT}", "run_id": "r", "graph_id": graph, "assistant_id": graph,
        "seq": seq, "epoch": 1, "occurred_at": at,
    }  # fmt: skip
    return kind.model_validate(shared | fields)


def step(thread: str, seq: int, at: datetime, **fields: Any) -> Event:
    more = {
        "checkpoint_id": "c",
        "step": seq,
        "source": "loop",
        "nodes": ("browse",),
        "next": ("Login",),
        "duration_ms": 100.0,
    }
    return event(CheckpointSaved, thread, seq, at, **more | fields)


def stuck(thread: str, seq: int, at: datetime, node: str = "Login", code: StuckCode = StuckCode.OVERDUE) -> Event:
    fields = {"code": code, "reason": "it stands still", "next": (node,), "since": at - timedelta(hours=1), "note": 1}
    return event(ThreadStuck, thread, seq, at, **fields)


def history(today: datetime) -> list[Event]:
    yesterday, long_ago = today - timedelta(hours=10), today - timedelta(days=90)
    return [
        step("hangs", 1, yesterday - timedelta(hours=1)),
        stuck("hangs", 1, yesterday),
        stuck("pays", 1, yesterday, node="Pay", code=StuckCode.POISON),
        stuck("old", 1, long_ago),
        stuck("went on", 1, yesterday + timedelta(minutes=1)),
        event(
            ThreadRecovered, "went on", 1, yesterday + timedelta(hours=1), note=2, code="overdue", stuck_since=yesterday,
            status="running", next=("Login",),
        ),
        stuck("today", 1, today),
        step("works", 1, yesterday, duration_ms=300.0, expected_by=today + timedelta(days=2)),
        step("is late", 1, yesterday, graph="shop", nodes=("pick",), duration_ms=50.0, expected_by=yesterday),
        event(
            RunInterrupted, "waits", 1, yesterday, next=("ask",), interrupts=(InterruptInfo(id="i", value={"q": "May I?"}),)
        ),
        event(RunFailed, "failed", 1, yesterday, graph="shop", error=ErrorInfo(type="E", message="no", node="Pay")),
        event(RunSucceeded, "done", 1, yesterday),
    ]  # fmt: skip


GOT_STUCK = {"hangs", "pays", "went on", "today"}
FOUND: dict[str, set[str]] = {
    "perdure-stuck-now": {"hangs", "pays", "old", "today"},
    "perdure-got-stuck": GOT_STUCK,
    "perdure-got-stuck-at-node": GOT_STUCK - {"pays"},
    "perdure-stuck-at-node-yesterday": {"hangs", "went on"},
    "perdure-late": {"is late"},
    "perdure-recovered": {"went on"},
    "perdure-running": {"works", "is late", "went on"},
    "perdure-waiting": {"waits"},
    "perdure-failed": {"failed"},
}
COUNTED: dict[str, Any] = {
    "perdure-stuck-now-count": 4,
    "perdure-stuck-now-why": {"overdue": 3, "poison": 1},
    "perdure-stuck-now-where": {"Login": 3, "Pay": 1},
    "perdure-got-stuck-times": {"Login": 3, "Pay": 1},
    "perdure-got-stuck-nodes": {("crm", "Login", "overdue"): (3, 3), ("crm", "Pay", "poison"): (1, 1)},
    "perdure-threads-count": 10,
    "perdure-threads-status": {"stuck": 4, "running": 3, "interrupted": 1, "error": 1, "success": 1},
    "perdure-threads-graphs": {
        ("crm", "stuck"): 4, ("crm", "running"): 2, ("crm", "interrupted"): 1, ("crm", "success"): 1,
        ("shop", "running"): 1, ("shop", "error"): 1,
    },
    "perdure-steps": {"crm": 2, "shop": 1},
    "perdure-failures": {"Pay": 1},
    "perdure-nodes": {("crm", "browse"): (2, 200.0, 300.0), ("shop", "pick"): (1, 50.0, 50.0)},
}  # fmt: skip


@pytest.fixture(scope="module")
async def client(opensearch_url: str, today: datetime) -> AsyncIterator[OpenSearch]:
    opensearch = OpenSearch(opensearch_url)
    writer = Writer(opensearch, IndexerSettings(opensearch_url=opensearch_url))
    await writer.open()
    documents = [document_of(one, Redaction(), 1000) for one in history(today)]
    items = [state_item(one) for one in documents] + [newest_item(one) for one in newest(documents).values()]
    assert await writer.write(items) == []
    await opensearch.request("POST", f"/{STATES},{THREADS}/_refresh")
    yield opensearch
    await opensearch.close()


def pattern_of(one: dict[str, Any]) -> dict[str, Any]:
    """The index pattern that an object searches; a saved query is tried on states."""
    referred = [OBJECTS[reference["id"]] for reference in one["references"] if reference["type"] == "index-pattern"]
    return referred[0] if referred else OBJECTS[STATES]


def query_of(one: dict[str, Any]) -> dict[str, Any]:
    """The query as Dashboards sends it, with the dashboard's seven days or the saved query's own range."""
    attributes = one["attributes"]
    source = (
        attributes if one["type"] == "query" else json.loads(attributes["kibanaSavedObjectMeta"]["searchSourceJSON"])
    )
    assert source["query"]["language"] == "lucene"
    assert not source.get("filter")
    assert not source.get("filters")
    text = source["query"]["query"]
    must: list[Any] = [{"query_string": {"query": text, "analyze_wildcard": True}}] if text else []
    time_field = pattern_of(one)["attributes"].get("timeFieldName")
    if time_field is not None:
        span = attributes.get("timefilter", {"from": "now-7d", "to": "now"})
        must.append({"range": {time_field: {"gte": span["from"], "lte": span["to"]}}})
    return {"bool": {"filter": [{"term": {"tenant": TENANT}}, *must]}}


def aggregations_of(state: dict[str, Any]) -> dict[str, Any]:
    """The aggregations as Dashboards nests them: buckets in their order, the metrics in each of them."""
    metrics: dict[str, Any] = {}
    buckets: list[tuple[str, dict[str, Any]]] = []
    for one in state["aggs"]:
        params = one["params"]
        if one["schema"] == "metric":
            if one["type"] != "count":
                wanted = {name: params[name] for name in ("field", "percents") if name in params}
                metrics[one["id"]] = {one["type"]: wanted}
        elif one["type"] == "terms":
            by = "_count" if params["orderBy"] == "1" else params["orderBy"]
            buckets.append(
                (one["id"], {"field": params["field"], "size": params["size"], "order": {by: params["order"]}})
            )
        else:
            assert (one["type"], params["interval"]) == ("date_histogram", "auto")
            buckets.append((one["id"], {"field": params["field"], "calendar_interval": "year", "min_doc_count": 1}))
    nested: dict[str, Any] = metrics
    for id_, params in reversed(buckets):
        kind = "terms" if "size" in params else "date_histogram"
        nested = {id_: {kind: params, "aggs": nested}} | metrics
    return nested


def read(found: dict[str, Any], state: dict[str, Any]) -> Any:
    """What a visualisation shows: a number, or by the keys of its buckets (but time) the count and the metrics after it."""
    kinds = {one["id"]: one["type"] for one in state["aggs"]}
    numbers = [
        one for one in state["aggs"] if one["schema"] == "metric" and one["type"] not in ("percentiles", "max", "avg")
    ]
    shown: dict[tuple[str, ...], Any] = {}

    def value(level: dict[str, Any], total: int) -> Any:
        values = [total if one["type"] == "count" else level[one["id"]]["value"] for one in numbers]
        values += [level[id_]["value"] for id_, kind in kinds.items() if kind in ("avg", "max") and id_ in timed]
        return values[0] if len(values) == 1 else tuple(values)

    timed = {one["id"] for one in state["aggs"] if one["params"].get("field") == "duration_ms"}

    def walk(level: dict[str, Any], total: int, keys: tuple[str, ...]) -> None:
        inner = [(id_, level[id_]["buckets"]) for id_ in level if id_ in kinds and "buckets" in level[id_]]
        if not inner:
            before = shown.get(keys, 0)
            here = value(level, total)
            shown[keys] = here + before if isinstance(before, int) and isinstance(here, int) else here
        for id_, buckets in inner:
            for bucket in buckets:
                more = (bucket["key"],) if kinds[id_] == "terms" else ()
                walk(bucket, bucket["doc_count"], keys + more)

    walk(found.get("aggregations", {}), found["hits"]["total"]["value"], ())
    if list(shown) == [()]:
        return shown[()]
    return {keys[0] if len(keys) == 1 else keys: one for keys, one in shown.items()}


async def ask(client: OpenSearch, one: dict[str, Any], **body: Any) -> dict[str, Any]:
    index = pattern_of(one)["attributes"]["title"]
    body = {"query": query_of(one), "track_total_hits": True, **body}
    answer: dict[str, Any] = await client.request("POST", f"/{index}/_search", body)
    return answer


def test_every_query_is_tried() -> None:
    assert set(QUERIED) == {*FOUND, *COUNTED}


@pytest.mark.parametrize("id_", FOUND)
async def test_a_search_finds(client: OpenSearch, id_: str) -> None:
    one = OBJECTS[id_]
    attributes = one["attributes"]
    more = {"sort": [{name: order} for name, order in attributes["sort"]]} if one["type"] == "search" else {}
    found = await ask(client, one, size=100, **more)
    threads = [hit["_source"]["thread_id"].removesuffix(f"-{TENANT}") for hit in found["hits"]["hits"]]
    assert sorted(threads) == sorted(FOUND[id_])


@pytest.mark.parametrize("id_", COUNTED)
async def test_a_visualisation_shows(client: OpenSearch, id_: str) -> None:
    state = json.loads(OBJECTS[id_]["attributes"]["visState"])
    found = await ask(client, OBJECTS[id_], size=0, aggs=aggregations_of(state))
    assert read(found, state) == COUNTED[id_]


def test_everything_that_is_referred_to_is_there() -> None:
    seen: set[str] = set()
    for id_, one in OBJECTS.items():
        for reference in one["references"]:
            assert reference["id"] in seen, f"{id_} refers to {reference['id']}, which does not stand before it"
            assert OBJECTS[reference["id"]]["type"] == reference["type"]
        seen.add(id_)


def test_the_dashboards_show_every_object() -> None:
    boards = [one for one in OBJECTS.values() if one["type"] == "dashboard"]
    assert [one["attributes"]["title"] for one in boards] == ["Stuck agents", "Agents at work"]
    shown: list[str] = []
    for board in boards:
        panels = json.loads(board["attributes"]["panelsJSON"])
        assert [panel["panelRefName"] for panel in panels] == [reference["name"] for reference in board["references"]]
        assert all(panel["gridData"]["x"] + panel["gridData"]["w"] <= 48 for panel in panels)
        shown += [reference["id"] for reference in board["references"]]
    unshown = {one["id"] for one in OBJECTS.values() if one["type"] in ("search", "visualization")} - set(shown)
    assert unshown == {"perdure-got-stuck-at-node"}


def test_a_field_that_is_not_there_stops_the_generation() -> None:
    assert FIELDS["stuck.code"] == "keyword"
    for name, types in (("stuck.cause", ()), ("text", ("keyword",))):
        with pytest.raises(LookupError):
            field(name, *types)
