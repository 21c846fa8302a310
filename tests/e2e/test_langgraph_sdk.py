"""What docs/http-api.md says of the unmodified ``langgraph_sdk``: each method that it lists as working is called."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from tests.support.polling import until

DOCS = Path(__file__).parents[2] / "docs" / "http-api.md"
ROW = re.compile(r"^\| `(threads|runs|assistants|crons|store)` \|(.*)\|(.*)\|$", re.MULTILINE)


class Recording:
    """A client that notes which of its methods answered."""

    def __init__(self, client: LangGraphClient) -> None:
        self._client = client
        self.answered: dict[str, set[str]] = defaultdict(set)

    async def call(self, group: str, method: str, *arguments: Any, **named: Any) -> Any:
        answer = await getattr(getattr(self._client, group), method)(*arguments, **named)
        self.answered[group].add(method)
        return answer

    async def all(self, group: str, method: str, *arguments: Any, **named: Any) -> list[Any]:
        return [part async for part in self.stream(group, method, *arguments, **named)]

    async def stream(self, group: str, method: str, *arguments: Any, **named: Any) -> AsyncIterator[Any]:
        parts = getattr(getattr(self._client, group), method)(*arguments, **named)
        async for part in await parts if inspect.isawaitable(parts) else parts:
            self.answered[group].add(method)
            yield part


@pytest.fixture
async def sdk(system: Any) -> AsyncIterator[Recording]:
    client = get_client(url=system.services.gateway_url, api_key=None)
    yield Recording(client)
    await client.aclose()


def documented() -> dict[str, tuple[set[str], set[str]]]:
    """By client: the methods that work, and those that do not."""
    rows = ROW.findall(DOCS.read_text())
    return {
        name: (set(re.findall(r"`(\w+)`", works)), set(re.findall(r"`(\w+)`", not_yet)))
        for name, works, not_yet in rows
    }


def test_every_method_of_the_sdk_is_listed() -> None:
    listed = documented()
    assert f"`langgraph_sdk` {version('langgraph-sdk')}" in DOCS.read_text()
    client = get_client(url="http://127.0.0.1:1", api_key=None)
    for group in ("threads", "runs", "assistants", "crons", "store"):
        members = inspect.getmembers(getattr(client, group), callable)
        works, not_yet = listed[group]
        assert not works & not_yet
        assert works | not_yet == {name for name, _ in members if not name.startswith("_")}, group


async def test_the_methods_that_are_listed_as_working_work(system: Any, sdk: Recording) -> None:
    thread = await sdk.call("threads", "create", metadata={"from": "the SDK"})
    thread_id = thread["thread_id"]
    run = await sdk.call("runs", "create", thread_id, "chain", input={"n": 2})
    await sdk.call("runs", "join", thread_id, run["run_id"])
    assert (await sdk.call("runs", "get", thread_id, run["run_id"]))["status"] == "success"
    assert [one["run_id"] for one in await sdk.call("runs", "list", thread_id)] == [run["run_id"]]
    values = (await sdk.call("threads", "get_state", thread_id))["values"]
    assert values
    assert (await sdk.call("threads", "get", thread_id))["values"] == values
    assert (await sdk.call("threads", "get_history", thread_id))[0]["values"] == values
    updated = await sdk.call("threads", "update_state", thread_id, {"log": ["by hand"]})
    assert (await sdk.call("threads", "get_state", thread_id))["checkpoint"]["checkpoint_id"] == updated[
        "checkpoint_id"
    ]
    values = (await sdk.call("threads", "get_state", thread_id))["values"]
    mark = {"from": "the SDK", "graph_id": "chain"}
    (listed,) = await sdk.call("threads", "search", metadata=mark, values=values, status="idle")
    assert (listed["thread_id"], listed["values"]) == (thread_id, values)
    assert await sdk.call("threads", "count", metadata=mark, status="idle") == 1
    assert await sdk.call("threads", "count", metadata=mark, status="busy") == 0

    changed = await sdk.call("threads", "update", thread_id, metadata={"title": "a talk"})
    assert changed["metadata"] == {**mark, "assistant_id": changed["metadata"]["assistant_id"], "title": "a talk"}
    await sdk.call("threads", "copy", thread_id)
    copy, original = await sdk.call("threads", "search", metadata={"title": "a talk"}, sort_by="created_at")
    assert (copy["values"], original["thread_id"]) == (values, thread_id)
    pruned = await sdk.call("threads", "prune", [copy["thread_id"]], strategy="keep_latest")
    assert pruned == {"pruned_count": 1}
    assert (await sdk.call("threads", "get_state", copy["thread_id"]))["values"] == values
    await sdk.call("threads", "delete", copy["thread_id"])
    assert await sdk.call("threads", "count", metadata={"title": "a talk"}) == 1

    assert await sdk.call("runs", "wait", thread_id, "chain", input={"n": 2}) == values | {"n": 2}
    assert (await sdk.call("runs", "wait", None, "chain", input={"n": 2}))["step"] == 2
    failed = await sdk.call("runs", "wait", None, "fails", input={}, raise_error=False)
    assert failed["__error__"] == {"error": "ValueError", "message": "failed on purpose after 2 steps"}

    told = [(part.event, part.data) for part in await sdk.all("runs", "stream", thread_id, "chain", input={"n": 2})]
    assert told[-2:] == [("values", values), ("end", None)]
    again = await sdk.all("runs", "join_stream", thread_id, told[0][1]["run_id"], last_event_id="-1")
    assert [(part.event, part.data) for part in again] == told
    async for part in sdk.stream("threads", "join_stream", thread_id, last_event_id="-1", stream_mode="lifecycle"):
        assert (part.event, part.data["attempt"]) == ("metadata", 1)
        break

    slow = await sdk.call("runs", "create", None, "sleeper", input={"sleep_s": 600})
    listening = system.start("slow", {"seconds": 600})
    await sdk.call("runs", "cancel", listening["thread_id"], listening["run_id"], wait=True)
    ended = system.run(listening)
    assert (ended["status"], ended["perdure_status"]) == ("interrupted", "cancelled")
    assert slow["thread_id"]

    held = [system.start("slow", {"seconds": 600}) for _ in range(2)]
    for one in held:
        await sdk.call("runs", "cancel_many", thread_id=one["thread_id"], run_ids=[one["run_id"]], action="rollback")
    batch = await sdk.call("runs", "create_batch", [{"assistant_id": "chain", "input": {"n": n}} for n in (1, 2)])
    for one in batch:
        await sdk.call("runs", "join", one["thread_id"], one["run_id"])
        await sdk.call("runs", "delete", one["thread_id"], one["run_id"])
        assert await sdk.call("runs", "list", one["thread_id"]) == []

    texting = (await sdk.call("threads", "create"))["thread_id"]
    await sdk.call("runs", "create", texting, "slow", input={"seconds": 600})
    later = await sdk.call("runs", "create", texting, "slow", input={"seconds": 0}, after_seconds=600)
    assert later["status"] == "pending"
    last = await sdk.call("runs", "create", texting, "slow", input={"seconds": 0}, multitask_strategy="rollback")
    await sdk.call("runs", "join", texting, last["run_id"])
    due = await sdk.call("runs", "create", texting, "slow", input={"seconds": 0}, after_seconds=1)
    await sdk.call("runs", "join", texting, due["run_id"])
    kept = {one["run_id"]: one["status"] for one in await sdk.call("runs", "list", texting)}
    assert kept == {last["run_id"]: "success", due["run_id"]: "success"}, later
    for one in held:
        runs_of = partial(sdk.call, "runs", "list", one["thread_id"])
        await until(runs_of, "the cancelled run is undone", holds=lambda found: found == [])

    (found,) = await sdk.call("assistants", "search", graph_id="chain")
    assert (await sdk.call("assistants", "get", found["assistant_id"]))["graph_id"] == "chain"
    assert (await sdk.call("assistants", "get_schemas", found["assistant_id"]))["graph_id"] == "chain"
    drawn = await sdk.call("assistants", "get_graph", found["assistant_id"])
    assert {"__start__", "__end__"} < {one["id"] for one in drawn["nodes"]}

    cron = await sdk.call("crons", "create", "chain", schedule="0 7 * * *", input={})
    of_thread = await sdk.call("crons", "create_for_thread", thread_id, "chain", schedule="0 8 * * *", input={})
    assert await sdk.call("crons", "count") == 2
    assert {one["cron_id"] for one in await sdk.call("crons", "search")} == {cron["cron_id"], of_thread["cron_id"]}
    await sdk.call("crons", "update", cron["cron_id"], enabled=False)
    for made in (cron, of_thread):
        await sdk.call("crons", "delete", made["cron_id"])

    assert sdk.answered == {group: works for group, (works, _) in documented().items() if works}
