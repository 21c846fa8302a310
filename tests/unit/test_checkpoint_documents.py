"""Keys, documents and the merging of pending writes: pure."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from langgraph.checkpoint.base import WRITES_IDX_MAP, Checkpoint
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from perdure.checkpoint import documents, errors, keys
from perdure.checkpoint.codec import Codec
from perdure.checkpoint.documents import Place
from perdure.checkpoint.scope import RunScope

CODEC = Codec(JsonPlusSerializer())
PLACE = Place("t", "", "c1")


def call(task: str, *writes: tuple[str, Any], path: str = "", scope: RunScope | None = None) -> dict[str, Any]:
    rows = [(WRITES_IDX_MAP.get(channel, index), channel, value) for index, (channel, value) in enumerate(writes)]
    return documents.writes_document(CODEC, PLACE, task, path, rows=rows, scope=scope)


def merged(*calls: dict[str, Any]) -> list[tuple[str, str, Any]]:
    return [(one.task_id, one.channel, one.entry) for one in documents.merge_writes(CODEC, calls)]


def test_the_first_regular_write_and_the_last_special_one_win() -> None:
    first = call("a", ("x", 1), ("__error__", "e1"))
    second = call("a", ("x", 2), ("__error__", "e2"), ("y", 3))
    for order in itertools.permutations([first, second]):
        assert merged(*order) == [("a", "__error__", "e2"), ("a", "x", 1), ("a", "y", 3)]


def test_a_longer_list_adds_the_new_ones() -> None:
    task = "00000000-0000-0000-0000-000000000000"
    found = merged(call(task, ("x", 1)), call(task, ("x", 1), ("x", 2)))
    assert found == [(task, "x", 1), (task, "x", 2)]


def test_writes_are_sorted_by_path_task_and_index() -> None:
    found = merged(call("b", ("x", 1), ("x", 2), path="p1"), call("a", ("x", 3), path="p2"), call("z", ("x", 4)))
    assert [value for _, _, value in found] == [4, 1, 2, 3]


def test_a_late_write_of_an_owner_that_lost_the_run_changes_nothing() -> None:
    old, new = RunScope("t", "r", 1, next_seq=5), RunScope("t", "r", 2, next_seq=14)
    mine = call("a", ("x", "new"), scope=new)
    late = call("a", ("x", "old"), ("y", "old"), scope=old)
    assert merged(mine, late) == [("a", "x", "new")]


def test_a_write_of_the_previous_owner_counts_where_the_new_one_wrote_none() -> None:
    old = RunScope("t", "r", 1, next_seq=5)
    assert merged(call("a", ("x", "old"), scope=old)) == [("a", "x", "old")]


@pytest.mark.parametrize("value", ["a\x1fb", "", None, 1.5, object()])
def test_an_id_that_would_break_a_key_is_refused(value: Any) -> None:
    with pytest.raises(errors.InvalidId) as caught:
        keys.checked("thread id", value)
    assert caught.value.name == "thread id"


def test_ranges_hold_their_thread_and_nothing_else() -> None:
    low, high = keys.everything("t1")
    inside = [keys.checkpoint("t1", "", "a"), keys.writes("t1", "ns", "a", "task", "0"), keys.segment("t1", b"d" * 16)]
    outside = [keys.checkpoint(other, "", "a") for other in ("t", "t10", "t1 ", "t0", "u")]
    assert all(low <= key < high for key in inside)
    assert not any(low <= key < high for key in outside)
    low, high = keys.writes_of("t1", "", "c1")
    assert not low <= keys.writes("t1", "", "c10", "task", "0") < high
    low, high = keys.checkpoints("t1", "a")
    assert not low <= keys.checkpoint("t1", "a|b", "1") < high


def checkpoint(**more: Any) -> Checkpoint:
    found: Any = {
        "v": 4,
        "id": "c1",
        "ts": "2026-01-02T03:04:05.678901+00:00",
        "channel_values": {},
        "channel_versions": {"branch:to:a.$b": 3, "x": "0001.5"},
        "versions_seen": {"__input__": {}, "a": {"x": "0001.5"}},
        "updated_channels": ["x"],
    }
    return found | more


@pytest.mark.parametrize(
    "metadata",
    [
        {"source": "loop", "step": 3, "parents": {"": "c0"}},
        {"source": "loop", "step": 3, "a.b": 1, "$c": 2, "deep": {"d.e": [1, {"f": None}]}},
        {"source": "loop", "step": 3, "when": datetime(2026, 1, 1, tzinfo=UTC), "big": 2**70 % 2**64},
    ],
)
def test_a_checkpoint_comes_back_as_it_was(metadata: Any) -> None:
    original = checkpoint(pending_sends=[], custom={"kept": True})
    document = documents.checkpoint_document(CODEC, PLACE, "c0", original, metadata, entries={"x": 1}, base={"d": "c0"})
    stored = documents.read_checkpoint(CODEC, document)
    assert stored.checkpoint == original
    assert stored.metadata == metadata
    assert (stored.parent, stored.entries, stored.base) == ("c0", {"x": 1}, {"d": "c0"})
    assert document["at"] == datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def test_a_newer_format_is_refused() -> None:
    document = documents.checkpoint_document(CODEC, PLACE, None, checkpoint(), {"step": 0}, entries={}, base={})
    with pytest.raises(errors.UnknownFormat):
        documents.read_checkpoint(CODEC, document | {"f": 2})


def test_every_error_says_whether_to_retry_and_is_in_the_tree() -> None:
    found = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.NotebookError)
    ]
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in found)
    assert not any(kind.retryable for kind in found)
