"""Signed records: what was not signed, was signed by somebody else, or was changed, is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.kafka.deadletter import Origin
from perdure.chassis.signatures import HEADER, Signatures
from perdure.schemas.deadletter import redriven_headers
from perdure.schemas.envelope import Record, UndecodableError

OLD, NEW, FOREIGN = "o" * 32, "n" * 32, "f" * 32
TOPIC = "perdure.verdicts"
RECORD = Record(b"thread", b'{"outcome":"proceed"}', [("ce_type", b"t"), ("ce_schemaversion", b"1"), ("ce_id", b"i")])


def read(record: Record, topic: str = TOPIC) -> Origin:
    return Origin(topic, 0, 0, record.key, record.value, record.headers)


def refusal(signatures: Signatures, record: Record, topic: str = TOPIC) -> str:
    with pytest.raises(UndecodableError) as raised:
        signatures.verify(read(record, topic))
    assert raised.value.reason == "signature"
    return raised.value.detail


def test_what_was_signed_is_believed() -> None:
    signed = Signatures([OLD]).signed(TOPIC, RECORD)
    Signatures([OLD]).verify(read(signed))
    assert (signed.key, signed.value) == (RECORD.key, RECORD.value)


def test_what_was_not_signed_is_refused() -> None:
    assert "not signed" in refusal(Signatures([OLD]), RECORD)


def test_the_signature_of_a_stranger_is_refused() -> None:
    assert "known here" in refusal(Signatures([OLD]), Signatures([FOREIGN]).signed(TOPIC, RECORD))


def test_a_stranger_that_names_the_known_secret_is_refused() -> None:
    known = dict(Signatures([OLD]).signed(TOPIC, RECORD).headers)[HEADER].split(b".")[1]
    form, _, tag = dict(Signatures([FOREIGN]).signed(TOPIC, RECORD).headers)[HEADER].split(b".")
    forged = replace(RECORD, headers=[*RECORD.headers, (HEADER, b".".join((form, known, tag)))])
    assert "forged or changed" in refusal(Signatures([OLD]), forged)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: {"value": r.value.replace(b"proceed", b"stale")}, id="value"),
        pytest.param(lambda _: {"value": b""}, id="no value"),
        pytest.param(lambda r: {"headers": [("ce_type", b"other"), *r.headers[1:]]}, id="type"),
        pytest.param(lambda r: {"headers": [*r.headers, ("ce_type", b"other")]}, id="a second type"),
        pytest.param(lambda r: {"headers": [r.headers[0], ("ce_schemaversion", b"2"), *r.headers[2:]]}, id="version"),
        pytest.param(lambda r: {"headers": [*r.headers[:-1], (HEADER, b"\xff")]}, id="no text"),
        pytest.param(lambda r: {"headers": [*r.headers[:-1], (HEADER, b"1..")]}, id="empty"),
    ],
)
def test_a_changed_record_is_refused(change: Any) -> None:
    signed = Signatures([OLD]).signed(TOPIC, RECORD)
    refusal(Signatures([OLD]), replace(signed, **change(signed)))


def test_a_record_of_another_topic_is_refused() -> None:
    refusal(Signatures([OLD]), Signatures([OLD]).signed("perdure.validations", RECORD))


def test_a_redriven_record_is_believed() -> None:
    signed = Signatures([OLD]).signed(TOPIC, RECORD)
    Signatures([OLD]).verify(read(replace(signed, headers=redriven_headers(signed.headers, "letter", 0))))


def test_secrets_are_replaced_without_a_refusal() -> None:
    before, both, turned, after = Signatures([OLD]), Signatures([OLD, NEW]), Signatures([NEW, OLD]), Signatures([NEW])
    for writer, reader in ((before, both), (both, turned), (turned, both), (turned, after), (after, turned)):
        reader.verify(read(writer.signed(TOPIC, RECORD)))
    refusal(after, before.signed(TOPIC, RECORD))


def test_without_a_secret_nothing_is_signed_and_nothing_refused() -> None:
    off = Signatures([])
    assert not off.on
    assert off.signed(TOPIC, RECORD) == RECORD
    off.verify(read(RECORD))


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="PERDURE_SIGNING_SECRET"):
        Signatures(["short"])
