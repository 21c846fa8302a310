"""Threads: searching and counting. Each probe makes threads that share a mark, and looks among these."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.compatibility.probe import claim, probe
from tests.compatibility.probes.threads import FILLED, assert_recent
from tests.compatibility.stage import Stage, mark

SEARCH, COUNT = "POST /threads/search", "POST /threads/count"


async def _three(stage: Stage) -> tuple[dict[str, Any], list[str]]:
    """Three threads with a mark of their own, the oldest first."""
    metadata = mark()
    return metadata, [await stage.thread(metadata={**metadata, "n": n}) for n in range(3)]


def _ids(threads: Any) -> list[str]:
    return [one["thread_id"] for one in threads]


async def by_metadata(stage: Stage) -> None:
    metadata, threads = await _three(stage)
    assert set(_ids(await stage.sdk.threads.search(metadata=metadata))) == set(threads)
    assert _ids(await stage.sdk.threads.search(metadata={**metadata, "n": 1})) == [threads[1]]
    assert await stage.sdk.threads.search(metadata=mark()) == []
    assert await stage.sdk.threads.count(metadata=metadata) == 3
    assert await stage.sdk.threads.count(metadata=mark()) == 0


async def by_graph(stage: Stage) -> None:
    metadata, (first, second, _) = await _three(stage)
    await asyncio.gather(stage.walk(first), stage.walk(second))
    (asker,) = [await stage.thread(metadata=metadata)]
    await stage.ended(await stage.sdk.runs.create(asker, "ask", input={}))
    found = await stage.sdk.threads.search(metadata={**metadata, "graph_id": "walk"})
    assert set(_ids(found)) == {first, second}
    assistant = found[0]["metadata"]["assistant_id"]
    assert await stage.sdk.threads.count(metadata={**metadata, "assistant_id": assistant}) == 2


async def by_ids(stage: Stage) -> None:
    metadata, threads = await _three(stage)
    assert set(_ids(await stage.sdk.threads.search(metadata=metadata, ids=threads[:2]))) == set(threads[:2])


async def by_values(stage: Stage) -> None:
    metadata, (first, second, _) = await _three(stage)
    await asyncio.gather(stage.walk(first, 1), stage.walk(second, 2))
    await asyncio.gather(stage.at_rest(first), stage.at_rest(second))
    assert _ids(await stage.sdk.threads.search(metadata=metadata, values={"done": 2})) == [second]
    assert await stage.sdk.threads.count(metadata=metadata, values={"done": 1}) == 1


async def by_status(stage: Stage) -> None:
    metadata, (idle, asks, busy) = await _three(stage)
    await stage.ended(await stage.sdk.runs.create(asks, "ask", input={}))
    await stage.at_rest(asks, "interrupted")
    run = await stage.held(busy)
    for status, thread in {"idle": idle, "interrupted": asks, "busy": busy}.items():
        assert _ids(await stage.sdk.threads.search(metadata=metadata, status=status)) == [thread], status
        assert await stage.sdk.threads.count(metadata=metadata, status=status) == 1
    await stage.sdk.runs.cancel(busy, run["run_id"], wait=True)


async def in_pages(stage: Stage) -> None:
    metadata, threads = await _three(stage)
    body = {"metadata": metadata, "sort_by": "created_at", "sort_order": "asc", "limit": 2}
    first = await stage.http.post("/threads/search", json=body)
    assert _ids(first.json()) == threads[:2]
    following = first.headers["X-Pagination-Next"]
    assert int(first.headers["X-Pagination-Total"]) >= 3
    last = await stage.http.post("/threads/search", json={**body, "offset": int(following)})
    assert _ids(last.json()) == threads[2:]
    assert last.headers["X-Pagination-Total"] == "3"
    assert "X-Pagination-Next" not in last.headers
    found = await stage.sdk.threads.search(metadata=metadata, sort_by="created_at", sort_order="desc", offset=1)
    assert _ids(found) == [threads[1], threads[0]]


async def sorted_by(stage: Stage) -> None:
    metadata, threads = await _three(stage)
    await stage.sdk.threads.update(threads[0], metadata={"n": 9})
    for field, wanted in {
        "thread_id": sorted(threads),
        "created_at": threads,
        "updated_at": [*threads[1:], threads[0]],
    }.items():
        found = await stage.sdk.threads.search(metadata=metadata, sort_by=field, sort_order="asc")  # type: ignore[arg-type]
        assert _ids(found) == wanted, field
        found = await stage.sdk.threads.search(metadata=metadata, sort_by=field, sort_order="desc")  # type: ignore[arg-type]
        assert _ids(found) == wanted[::-1], field


async def sorted_by_status(stage: Stage) -> None:
    metadata, (idle, asks, _) = await _three(stage)
    await stage.ended(await stage.sdk.runs.create(asks, "ask", input={}))
    await stage.at_rest(asks, "interrupted")
    found = await stage.sdk.threads.search(metadata=metadata, sort_by="status", sort_order="desc", limit=1)
    assert _ids(found) == [asks]
    assert idle in _ids(await stage.sdk.threads.search(metadata=metadata, sort_by="status", sort_order="asc"))[:2]


async def selected(stage: Stage) -> None:
    metadata, _ = await _three(stage)
    found = await stage.sdk.threads.search(metadata=metadata, select=["thread_id", "metadata"])
    assert [set(one) for one in found] == [{"thread_id", "metadata"}] * 3


async def extracted(stage: Stage) -> None:
    metadata, (thread, *_) = await _three(stage)
    await stage.walk(thread)
    await stage.at_rest(thread)
    (found,) = await stage.sdk.threads.search(
        metadata={**metadata, "n": 0}, extract={"last": "values.log[-1]", "first": "values.log[0]"}
    )
    assert found["extracted"] == {"last": "right", "first": "left"}


async def shown(stage: Stage) -> None:
    metadata = mark()
    thread = await stage.thread(metadata=metadata)
    await stage.ended(await stage.sdk.runs.create(thread, "ask", input={"note": "noted"}))
    await stage.at_rest(thread, "interrupted")
    (found,) = await stage.sdk.threads.search(metadata=metadata)
    assert (found["thread_id"], found["status"]) == (thread, "interrupted")
    assert found["values"]["note"] == "noted"
    assert found["metadata"].items() >= metadata.items()
    ((interrupt,),) = found["interrupts"].values()
    assert interrupt["value"] == {"question": "go on?"}
    assert isinstance(found["config"], dict)
    assert_recent(found, "created_at", "updated_at", "state_updated_at")


PROBES = (
    probe(by_metadata, claim(SEARCH, body="metadata"), claim(COUNT, body="metadata")),
    probe(by_graph, claim(SEARCH, body="metadata"), claim(COUNT, body="metadata")),
    probe(by_ids, claim(SEARCH, body="ids")),
    probe(
        by_values,
        claim(SEARCH, body="values"),
        claim(COUNT, body="values"),
        reference=False,  # its in-memory runtime answers 500
    ),
    probe(by_status, claim(SEARCH, body="status"), claim(COUNT, body="status")),
    probe(in_pages, claim(SEARCH, body="limit offset", answer_header="X-Pagination-Total X-Pagination-Next")),
    probe(sorted_by, claim(SEARCH, body="sort_by sort_order")),
    probe(sorted_by_status, claim(SEARCH, body="sort_by")),
    probe(selected, claim(SEARCH, body="select")),
    probe(extracted, claim(SEARCH, body="extract", answer="extracted")),
    probe(shown, claim(SEARCH, answer=FILLED)),
)
