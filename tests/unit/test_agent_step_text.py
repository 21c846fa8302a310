"""The changed text of a state: only what changed, bounded, with paths that redaction can match."""

from __future__ import annotations

import time

from langchain_core.messages import AIMessage, HumanMessage

from perdure.agent_step.text import ChangedText, leaves
from perdure.schemas.events import TEXT_LIMIT


def test_only_new_items_of_a_list_are_told() -> None:
    text = ChangedText()
    history = [{"role": "user", "content": "hello"}]
    assert text.of("", {"messages": history}, ["messages"]) == (
        "$.messages[0].role\tuser\n$.messages[0].content\thello",
        False,
    )
    longer = [*history, {"role": "ai", "content": "good\tday\nto you"}]
    told, cut = text.of("", {"messages": longer}, ["messages"])
    assert told == "$.messages[1].role\tai\n$.messages[1].content\tgood\\tday\\nto you"
    assert not cut


def test_a_list_changed_in_place_is_told_too() -> None:
    text = ChangedText()
    log = ["one"]
    text.of("", {"log": log}, ["log"])
    log.append("two")
    assert text.of("", {"log": log}, ["log"])[0] == "$.log[1]\ttwo"


def test_an_item_that_was_replaced_is_told_after_the_new_ones() -> None:
    text = ChangedText()
    log = [f"item {n}" for n in range(5)]
    text.of("", {"log": log}, ["log"])
    changed = [*log[:2], "other", *log[3:], "new"]
    assert text.of("", {"log": changed}, ["log"])[0] == "$.log[5]\tnew\n$.log[2]\tother"
    assert text.of("", {"log": changed[:3]}, ["log"])[0] == ""


def test_only_changed_keys_of_a_dict_are_told() -> None:
    text = ChangedText()
    text.of("", {"facts": {"a": "1", "b": "2"}}, ["facts"])
    assert text.of("", {"facts": {"a": "1", "b": "3"}}, ["facts"])[0] == "$.facts.b\t3"


def test_messages_are_told_by_their_fields() -> None:
    found = dict(leaves("$.m", [HumanMessage("hi", id="1"), AIMessage("ho", id="2")]))
    assert found["$.m[0].content"] == "hi"
    assert found["$.m[1].content"] == "ho"


def test_the_limit_bounds_text_and_work() -> None:
    state = {"messages": [f"{i} " + "x" * 1000 for i in range(100_000)]}
    began = time.process_time()
    told, cut = ChangedText().of("", state, ["messages"])
    assert cut
    assert len(told) <= TEXT_LIMIT
    assert told.startswith("$.messages[99999]"), "the newest first"
    assert time.process_time() - began < 0.5


def test_namespaces_are_kept_apart() -> None:
    text = ChangedText()
    text.of("", {"log": ["one"]}, ["log"])
    assert text.of("sub:1", {"log": ["one"]}, ["log"])[0] == "$.log[0]\tone"
