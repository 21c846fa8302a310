"""The cut into blocks and the encoding of values: pure, checked with generated values."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from perdure.checkpoint import blocks, values
from perdure.checkpoint.codec import Codec
from perdure.checkpoint.errors import NotSerialisable, UnsafeSerializer
from perdure.checkpoint.pages import ThreadPages
from perdure.checkpoint.sealing import Bundle, encode_value, finish

CODEC = Codec(JsonPlusSerializer())

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
items = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8
)


def store(
    value: Any, previous: values.Encoded | None = None, known: set[bytes] | None = None, *, shallow: bool = False
) -> tuple[values.Encoded, dict]:
    """Encode as a put does; the new segments by digest."""
    pages = ThreadPages(stored=set() if known is None else known)
    bundle = Bundle("t", pages)
    encoded = encode_value(CODEC, "t", "channel", value, previous, shallow=shallow)
    bundle.add(encoded)
    finish(CODEC, bundle)
    written = {}
    for document in bundle.submit():
        from perdure.checkpoint.codec import decompress

        data = decompress(document["d"]) if document.get("z") else document["d"]
        written[bytes.fromhex(document["_id"].rsplit("\x1f", 1)[1])] = (document.get("k", "msgpack"), data)
    return encoded, written


def load(encoded: values.Encoded, segments: dict) -> tuple[Any, values.Encoded]:
    return values.decode(CODEC, encoded.entry(), segments)


@given(st.integers(0, 5000))
def test_the_cut_covers_every_item_once_in_order(length: int) -> None:
    expected = 0
    for level, start, stop in blocks.cut(length):
        assert start == expected
        assert stop - start == 8**level
        assert start % (8**level) == 0
        expected = stop
    assert expected == length


@given(st.integers(0, 5000))
def test_a_cut_has_few_blocks(length: int) -> None:
    assert sum(1 for _ in blocks.cut(length)) <= 21 + length // 512


@settings(deadline=None, max_examples=60)
@given(st.lists(items, max_size=700) | st.dictionaries(st.text(), items, max_size=100) | items)
def test_what_is_stored_comes_back(value: Any) -> None:
    encoded, segments = store(value)
    found, again = load(encoded, segments)
    assert found == value
    assert type(found) is type(value)
    _, more = store(found, again, set(segments))
    assert not more, "a value that was loaded and is put again writes nothing"


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 600), st.integers(1, 40))
def test_two_ways_to_the_same_list_give_the_same_segments(length: int, added: int) -> None:
    content = [{"role": "user", "content": f"{number:0200d}"} for number in range(length + added)]
    known: set[bytes] = set()
    grown, segments = store(content[:length], None, known)
    for stop in range(length + 1, length + added + 1):
        grown, more = store(content[:stop], grown, known)
        segments |= more
    at_once, _ = store(copy.deepcopy(content))
    assert grown.entry() == at_once.entry()
    assert load(grown, segments)[0] == content


def test_an_append_writes_little() -> None:
    message = "x" * 1024
    history = [f"{number}{message}" for number in range(2048)]
    known: set[bytes] = set()
    encoded, _ = store(history, None, known)
    total = 0
    for number in range(64):
        history = [*history, f"new {number}{message}"]
        encoded, written = store(history, encoded, known)
        manifest = len(encoded.entry()[2]) + len(encoded.entry()[3])
        total += sum(len(data) for _, data in written.values()) + manifest
    assert total / 64 < 0.01 * 2 * 1024 * 1024


@pytest.mark.parametrize("position", [0, 5, 511, 512, 599])
def test_a_change_in_place_is_never_missed(position: int) -> None:
    history = [{"role": "user", "content": {"text": "x" * 100, "n": number}} for number in range(600)]
    known: set[bytes] = set()
    before, segments = store(history, None, known)
    history[position]["content"]["text"] = "changed"
    after, more = store(history, before, known)
    assert more
    assert load(after, segments | more)[0] == history
    assert load(before, segments)[0][position]["content"]["text"] == "x" * 100


@pytest.mark.parametrize("other", [True, 1.0, "1", (1,)])
def test_equal_is_not_unchanged(other: Any) -> None:
    history: list[Any] = [1, "y" * 2000]
    known: set[bytes] = set()
    before, segments = store(history, None, known)
    after, more = store([other, history[1]], before, known)
    found = load(after, segments | more)[0]
    assert repr(found[0]) == repr([1] if other == (1,) else other)


def test_a_message_that_is_written_and_then_appended_is_stored_once() -> None:
    known: set[bytes] = set()
    message = {"role": "user", "content": "z" * 5000}
    _, written = store([message], None, known)
    assert len(written) == 1
    _, more = store(["a" * 10] * 0 + [message], None, known)
    assert not more


@pytest.mark.parametrize(
    "value", ["s" * (20 << 20), ["m" * (1 << 20) for _ in range(20)], b"b" * (9 << 20), {"k": "v" * (9 << 20)}]
)
def test_no_segment_is_larger_than_a_document_may_be(value: Any) -> None:
    encoded, segments = store(value)
    assert max(len(data) for _, data in segments.values()) <= blocks.PIECE_BYTES
    assert load(encoded, segments)[0] == value


def test_a_snapshot_of_a_long_list_is_cut_too() -> None:
    value = [f"{number:0100d}" for number in range(1000)]
    known: set[bytes] = set()
    encoded, segments = store(_DeltaSnapshot(value), None, known)
    found, again = load(encoded, segments)
    assert isinstance(found, _DeltaSnapshot)
    assert found.value == value
    assert len(segments) > 1
    grown, more = store(_DeltaSnapshot([*value, "one more"]), again, known)
    assert sum(len(data) for _, data in more.values()) < 1000
    assert load(grown, segments | more)[0].value == [*value, "one more"]


def test_a_shallow_comparison_serializes_only_items_that_are_other_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    value = [{"number": number, "text": "x" * 100} for number in range(1000)]
    known: set[bytes] = set()
    before, segments = store(value, None, known, shallow=True)
    serialized: list[int] = []
    encode = CODEC.encode

    def counting(item: Any) -> tuple[str, bytes]:
        typ, data = encode(item)
        serialized.append(len(data))
        return typ, data

    monkeypatch.setattr(CODEC, "encode", counting)
    grown, more = store([*value, {"number": 1000}], before, known, shallow=True)
    assert sum(serialized) < 2000
    assert load(grown, segments | more)[0] == [*value, {"number": 1000}]
    serialized.clear()
    snapshot, nothing = store(_DeltaSnapshot([*value, {"number": 1000}]), grown, known)
    assert sum(serialized) > 100_000, "a snapshot is what is in memory, also where an item was changed in place"
    assert not nothing
    assert load(snapshot, segments | more)[0].value == [*value, {"number": 1000}]
    assert grown.entry() == snapshot.entry()[1], "the value before is no snapshot by that"
    _, again = load(snapshot, segments | more)
    plain, _ = store([*value, {"number": 1000}], again, known, shallow=True)
    assert plain.entry() == grown.entry()


def test_the_inline_limit_depends_on_content_alone() -> None:
    small = ["x"] * 200
    encoded, segments = store(small)
    assert not segments
    assert load(encoded, {})[0] == small
    large, _ = store(["x" * 100] * 300)
    shrunk, more = store(small, large)
    assert not more
    assert shrunk.entry() == encoded.entry()


def test_what_cannot_be_stored_is_named() -> None:
    with pytest.raises(NotSerialisable) as caught:
        encode_value(CODEC, "t1", "handle", {"open": object()}, None, task_path="~__pregel_pull, fetch")
    error = caught.value
    assert (error.thread_id, error.channel, error.node, error.retryable) == ("t1", "handle", "fetch", False)
    assert "fetch" in str(error)
    assert "handle" in str(error)
    with pytest.raises(NotSerialisable, match="returned by node 'fetch, parse'"):
        encode_value(CODEC, "t1", "handle", {"open": object()}, None, writers={"handle": ["fetch", "parse"]})


def test_a_serializer_that_unpickles_is_refused() -> None:
    with pytest.raises(UnsafeSerializer):
        Codec(JsonPlusSerializer(pickle_fallback=True))
