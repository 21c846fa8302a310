"""Encryption of stored values: keys, what is sealed, what is refused."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.binary import Binary
from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.chassis import at_rest
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.keyring import KeyRing, SealedError, bound_digest, taken_apart
from perdure.chassis.settings import ServiceSettings
from perdure.schemas.grants import SERVICES, UPDATE
from perdure.schemas.key_documents import ENCRYPTION_KEYS

READING: CodecOptions[dict[str, Any]] = CodecOptions(type_registry=at_rest.REGISTRY, tz_aware=True)
OLD, NEW = bytes(range(32)), bytes(range(32, 64))


def text_of(**keys: bytes) -> str:
    return ",".join(f"{name}:{base64.b64encode(key).decode()}" for name, key in keys.items())


@pytest.fixture(autouse=True)
def ring() -> Iterator[KeyRing]:
    found = KeyRing({"old": OLD})
    at_rest.switch_on(found)
    yield found
    at_rest.switch_on(None)


def stored(collection: str, document: dict[str, Any]) -> bytes:
    return bson.encode(at_rest.sealed(collection, document))


VALUES = st.recursive(
    st.text(min_size=1, max_size=20)
    | st.binary(min_size=1, max_size=20)
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans(),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
def test_what_is_sealed_is_read_as_it_was(value: Any) -> None:
    raw = stored("runs", {"_id": "r", "payload": value, "status": "success"})
    assert bson.decode(raw, READING) == {"_id": "r", "payload": value, "status": "success"}


def test_nothing_of_a_value_is_in_the_clear() -> None:
    secret = "secretive-4711"
    document = {
        "_id": "e",
        "receipt": secret.encode(),
        "more_receipts": [{"receipt": secret, "token": "t"}],
        "attempts": [{"error": secret, "number": 1}, {"number": 2}],
        "state": "done",
    }
    raw = stored("effects", document)
    assert secret.encode() not in raw
    assert bson.decode(raw)["attempts"][1] == {"number": 2}
    assert bson.decode(raw, READING) == document


def test_what_is_not_named_and_what_is_empty_stays() -> None:
    document = {"_id": "w", "question": None, "status": "open", "interrupt": {}, "metadata": {"a": 1}}
    assert at_rest.sealed("waits", document) == document
    assert at_rest.sealed("graphs", {"_id": "g", "payload": b"x"}) == {"_id": "g", "payload": b"x"}
    at_rest.switch_on(None)
    assert at_rest.sealed("runs", {"_id": "r", "payload": b"x"}) == {"_id": "r", "payload": b"x"}


def test_every_key_decrypts_and_the_first_one_encrypts(ring: KeyRing) -> None:
    before = stored("runs", {"_id": "r", "payload": b"x"})
    at_rest.switch_on(KeyRing({"new": NEW, "old": OLD}))
    after = stored("runs", {"_id": "r", "payload": b"x"})
    assert [taken_apart(bson.decode(one)["payload"]).key_id for one in (before, after)] == ["old", "new"]
    assert bson.decode(before, READING) == bson.decode(after, READING) == {"_id": "r", "payload": b"x"}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (None, "PERDURE_ENCRYPTION_KEYS is not set"),
        ({"new": NEW}, "encrypted with the key 'old', and PERDURE_ENCRYPTION_KEYS has only new: add that key"),
        ({"old": NEW}, "'old' cannot be opened: PERDURE_ENCRYPTION_KEYS has another key under that id"),
    ],
)
def test_a_key_that_is_not_there_is_named(keys: dict[str, bytes] | None, says: str) -> None:
    raw = stored("runs", {"_id": "r", "payload": b"x"})
    at_rest.switch_on(None if keys is None else KeyRing(keys))
    with pytest.raises((SealedError, InvalidBSON), match=says):
        bson.decode(raw, READING)


def test_a_part_of_a_document_without_sealed_values_needs_no_id() -> None:
    at_rest.switch_on(KeyRing({"new": NEW}))
    at_rest.require_own("notebook", [{"seq": 7}])


def test_whoever_encrypts_again_may_change_every_collection_with_sealed_values() -> None:
    rotation = SERVICES["rotation"].collections
    assert {name for name, actions in rotation.items() if name != ENCRYPTION_KEYS} == set(at_rest.FIELDS)
    assert {actions for name, actions in rotation.items() if name != ENCRYPTION_KEYS} == {UPDATE}


def test_a_value_that_was_changed_or_moved_is_refused() -> None:
    raw = bson.decode(stored("threads", {"_id": "mine", "interrupts": [{"value": "x"}]}))
    moved = bson.decode(bson.encode({**raw, "_id": "theirs"}), READING)
    with pytest.raises(SealedError, match="'theirs' of threads was sealed for another document"):
        at_rest.require_own("threads", [moved])
    at_rest.require_own("threads", [bson.decode(bson.encode(raw), READING)])
    for position in range(len(raw["interrupts"])):
        damaged = bytearray(raw["interrupts"])
        damaged[position] ^= 1
        with pytest.raises(SealedError):
            at_rest.open_sealed(bytes(damaged))


def test_addresses_say_nothing_without_the_key(ring: KeyRing) -> None:
    one = ring.address("t1", b"content", b"msgpack", 16)
    assert one == ring.address("t1", b"content", b"msgpack", 16)
    elsewhere = ring.address("t2", b"content", b"msgpack", 16)
    otherwise = KeyRing({"old": NEW}).address("t1", b"content", b"msgpack", 16)
    assert len({one, elsewhere, otherwise}) == 3


def test_keys_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = KeyRing.parse(text_of(k2=NEW, k1=OLD))
    assert (found.primary, found.ids) == ("k2", ("k2", "k1"))
    file = tmp_path / "keys"
    file.write_text(text_of(k2=NEW) + "\n" + text_of(k1=OLD) + "\n")
    monkeypatch.setenv("PERDURE_ENCRYPTION_KEYS_FILE", str(file))
    given = ServiceSettings().encryption_keys
    assert given is not None
    assert KeyRing.parse(given.get_secret_value()).ids == ("k2", "k1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("secretive", "entry 1 is no id:key"),
        ("k1:secretive!", "entry 1 is no id:key"),
        (text_of(k1=OLD[:16]), "'k1' has 16 bytes"),
        (f"{text_of(k1=OLD)},{text_of(k1=NEW)}", "'k1' is there twice"),
        (",", "names no key"),
    ],
)
def test_wrong_keys_are_named_and_not_shown(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as refused:
        KeyRing.parse(text)
    assert "secretive" not in str(refused.value)
    assert base64.b64encode(OLD).decode() not in str(refused.value)


def test_a_sealed_value_is_bound_to_collection_and_document() -> None:
    (value,) = at_rest.values("runs", at_rest.sealed("runs", {"_id": "r", "payload": b"x"}))
    assert isinstance(value, Binary)
    assert taken_apart(value).bound == bound_digest("runs\x1fr")
