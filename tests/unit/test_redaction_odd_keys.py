"""Whatever the keys are called, what a rule names is in no indexed document: not by the text, the metadata or an interrupt."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from perdure.agent_step.text import ChangedText
from perdure.indexer.domain import document_of
from perdure.indexer.redaction import Redaction
from perdure.indexer.rules import load
from perdure.schemas.events import TEXT_LIMIT, CheckpointSaved, InterruptInfo, RunInterrupted

SECRET = "secretive-4711"
SHARED: dict[str, Any] = {
    **dict.fromkeys(("tenant", "thread_id", "run_id", "graph_id", "assistant_id", "graph_version"), "x"),
    "epoch": 1, "seq": 1, "occurred_at": datetime(2026, 11, 23, tzinfo=UTC),
}  # fmt: skip
ODD = (
    "x\t", "a.b", "a[0]", "[", "]", ".", "..", "*", "$", "\\", "\\t", "\n", "\r\n$.fine", "x\n$.fine\t", "", " ", "ssn", "0",
    "\u2028",
)  # fmt: skip
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(ODD)
SHAPES = st.lists(st.tuples(st.sampled_from(["dict", "list"]), KEYS), max_size=4)


def nested(inner: Any, shapes: list[tuple[str, str]]) -> Any:
    for shape, key in shapes:
        inner = [inner] if shape == "list" else {key: inner}
    return inner


def documents_of(state: dict[str, Any], rule: str, folder: Path) -> str:
    """All that is indexed of a state, also where it is metadata and where it is asked about."""
    file = folder / "rules.json"
    file.write_text(json.dumps([{"path": rule, "action": "drop"}]))
    redaction: Redaction = load(file, None)
    text, _ = ChangedText().of("", state, list(state))
    events = [
        CheckpointSaved(**SHARED, checkpoint_id="c", step=1, source="loop", text=text, metadata=state),
        RunInterrupted(**SHARED, metadata={}, interrupts=(InterruptInfo(id="i", value=state),)),
    ]
    return json.dumps([document_of(one, redaction, TEXT_LIMIT) for one in events], default=str)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rules")


FAST = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FAST
@given(KEYS, SHAPES, SHAPES)
@example("x\t", [], [])
@example("state", [("dict", "x\t")], [])
def test_a_name_at_any_depth(
    folder: Path, channel: str, above: list[tuple[str, str]], below: list[tuple[str, str]]
) -> None:
    state = {channel: nested({"ssn": nested(SECRET, below)}, above)}
    assert SECRET not in documents_of(state, "$..ssn", folder)


@FAST
@given(KEYS, SHAPES)
@example("", [])
@example("x.y", [])
def test_any_key_under_a_name(folder: Path, key: str, below: list[tuple[str, str]]) -> None:
    state = {"people": {key: {"ssn": nested(SECRET, below)}}}
    assert SECRET not in documents_of(state, "$.people.*.ssn", folder)


@FAST
@given(KEYS.filter(bool), KEYS, SHAPES)
@example("a.b", "c", [])
def test_a_key_that_a_rule_names(folder: Path, channel: str, key: str, below: list[tuple[str, str]]) -> None:
    rule = f"$[{json.dumps(channel, ensure_ascii=False)}][{json.dumps(key, ensure_ascii=False)}]"
    assert SECRET not in documents_of({channel: {key: nested(SECRET, below)}}, rule, folder)


def test_what_no_rule_names_is_indexed(folder: Path) -> None:
    assert SECRET in documents_of({"people": {"x.y": {"name": SECRET}}}, "$.people.*.ssn", folder)
