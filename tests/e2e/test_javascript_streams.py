"""Streams for JavaScript clients, unmodified and pinned: the SDK, and ``useStream`` in a page, against the whole system."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from tests.support.javascript import run_script

DURABLE = ("values", "updates", "tasks", "checkpoints", "debug")
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def got(system: Any) -> Any:
    """What the SDK got."""
    return run_script("streams.mjs", system.services.gateway_url)


def test_streams_of_the_javascript_sdk(got: Any) -> None:
    run_id = got["created"]["run_id"]
    every: Events = got["all"]
    assert every[0]["event"] == "metadata"
    assert every[0]["data"]["run_id"] == run_id
    assert chunks(every) == ["I ", "heard: ", "one ", "two "]
    assert {"on_chat_model_stream", "on_chat_model_end"} <= {e["data"]["event"] for e in of(every, "events")}
    values = of(every, "values")[-1]["data"]
    assert [one["content"] for one in values["messages"]] == ["one two", "I heard: one two "]
    assert [list(one["data"]) for one in of(every, "updates")] == [["agent"]]
    assert all(of(every, mode) for mode in DURABLE)
    ids = [one["id"] for one in every if one.get("id")]
    assert len(ids) == len(set(ids))

    assert durable(got["again"]) == durable(every), "what is durable is told once more as it was told the first time"
    assert chunks(got["again"]) == chunks(every)

    partial = of(got["messages"], "messages/partial")
    assert partial[-1]["data"][0]["content"] == "I heard: three "
    assert [one["event"] for one in got["messages"]].count("messages/metadata") == 1
    assert of(got["withoutThread"], "values")[-1]["data"]["messages"][-1]["content"] == "I heard: four "
    assert of(got["failed"], "error")[-1]["data"]["error"] == "ValueError"
    (asked,) = of(got["interrupted"], "values")[-1]["data"]["__interrupt__"]
    assert asked["value"][0]["action_request"]["action"] == "transfer"
    assert of(got["resumed"], "updates")[-1]["data"]["approve"]["messages"][0]["content"] == "The decision was: yes"


def test_a_javascript_client_joins_leaves_and_joins_again_in_the_middle(got: Any) -> None:
    joined, rest = chunks(got["joined"]), chunks(got["rest"])
    assert joined + rest == [f"word-{n} " for n in range(11)]
    assert got["end"]["event"] != "messages", "it ended: the run was cancelled"
    (found,) = [one for one in got["search"] if one["thread_id"] == got["created"]["thread_id"]]
    assert found["metadata"]["from"] == "streams.mjs"
    assert got["patched"]["metadata"]["title"] == "renamed"
    assert len(got["history"]) == 3
    assert got["copy"]["thread_id"] != found["thread_id"]
    assert got["deleted"] == 404


def test_use_stream_in_a_page(system: Any) -> None:
    shown = run_script("use_stream.mjs", system.services.gateway_url)
    assert shown["errors"] == []
    assert shown["first"] == [shown["words"], f"I heard: {shown['words']} "]
    grown = shown["rendered"]
    assert len(grown) >= 4, "tokens appeared one after another"
    assert all(after.startswith(before.strip()) for before, after in pairwise(grown))
    assert shown["requests"][:2] == ["POST /threads", f"POST /threads/{shown['threadId']}/runs/stream"]
    assert shown["body"]["on_disconnect"] == "continue"

    assert shown["interrupt"]["value"][0]["action_request"]["action"] == "transfer"
    assert shown["resumed"][-1] == "The decision was: accept"

    assert shown["reloaded"].startswith("".join(f"word-{n} " for n in range(20))), "nothing is missing after the reload"
    assert shown["rejoined"]["lastEventId"] == "-1"
    assert shown["stopped"]["path"].endswith(f"/runs/{shown['runId']}/cancel")
    assert (shown["ended"]["status"], shown["ended"]["perdure_status"]) == ("interrupted", "cancelled")


def of(events: Events, name: str) -> Events:
    return [one for one in events if one["event"] == name]


def chunks(events: Events) -> list[str]:
    """What the chunks of the model say, in order."""
    return [one["data"][0]["content"] for one in of(events, "messages") if one["data"][0]["content"]]


def durable(events: Events) -> Events:
    return [one for one in events if one["event"] in DURABLE]
