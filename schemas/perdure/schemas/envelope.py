"""The envelope: CloudEvents 1.0 in Kafka binary mode (attributes in headers prefixed ``ce_``, JSON in the value).

Contract: :func:`encode` and :func:`decode` are inverse for every registered message. Extension attributes, by the CloudEvents
naming rule lower case without separators: ``schemaversion``, ``correlationid``, ``causationid``, ``tenant``; ``traceparent``
follows the CloudEvents distributed tracing extension.

Outside: producing and consuming (``perdure.chassis.kafka``) and what happens to a record that cannot be decoded
(``perdure.schemas.deadletter`` names the reasons).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_json

from perdure.schemas.message import Message
from perdure.schemas.thread_ids import is_possible

CONTENT_TYPE = b"application/json"
SPEC_VERSION = b"1.0"

Header = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Envelope:
    """The attributes of one record.

    ``id`` is derived from the cause wherever there is one, so that a repeat has the same id. ``correlation_id`` is the run
    id from the first command to the last event; ``causation_id`` is the id of the record that led to this one.
    """

    id: str
    type: str
    version: int
    source: str
    time: datetime
    tenant: str
    subject: str
    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What goes to Kafka: key, value and headers."""

    key: bytes
    value: bytes
    headers: list[Header]


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded record."""

    envelope: Envelope
    message: Message


class UndecodableError(Exception):
    """A record that cannot be read. ``reason`` is one of :class:`perdure.schemas.deadletter.Reason`."""

    retryable = False

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def encode(
    message: Message,
    *,
    id: str,
    source: str,
    correlation_id: str,
    time: datetime,
    causation_id: str | None = None,
    traceparent: str | None = None,
    value: bytes | None = None,
) -> Record:
    """Encode a message as a Kafka record in CloudEvents binary mode.

    Args:
        message: The message.
        id: The record's id.
        source: Who says it.
        correlation_id: The run id.
        time: When what it says happened.
        causation_id: The id of the record that led to it.
        traceparent: The trace that it belongs to.
        value: The message as JSON, where the caller has it already; then of ``message`` only type, version and addresses are read.

    """
    template = Template.of(
        message, source=source, correlation_id=correlation_id, causation_id=causation_id, traceparent=traceparent
    )
    return template.record(id, time, _value(message) if value is None else value)


@dataclass(frozen=True, slots=True)
class Template:
    """What records have in common that one source says about one thread: all but the id, the time and the value."""

    key: bytes
    between: tuple[Header, ...]
    """The headers between id and time."""
    after: tuple[Header, ...]

    @classmethod
    def of(
        cls,
        message: Message,
        *,
        source: str,
        correlation_id: str,
        causation_id: str | None = None,
        traceparent: str | None = None,
    ) -> Template:
        """The template of records as :func:`encode` makes them of a message of this type."""
        between = (("ce_type", message.TYPE.encode()), ("ce_source", source.encode()))
        after: list[Header] = [
            ("ce_subject", message.thread_id.encode()),
            ("ce_schemaversion", b"%d" % message.VERSION),
            ("ce_tenant", message.tenant.encode()),
            ("ce_correlationid", correlation_id.encode()),
            ("content-type", CONTENT_TYPE),
        ]
        if causation_id is not None:
            after.append(("ce_causationid", causation_id.encode()))
        if traceparent is not None:
            after.append(("ce_traceparent", traceparent.encode()))
        return cls(message.partition_key, between, tuple(after))

    def record(self, id: str, time: datetime, value: bytes) -> Record:
        """One record."""
        first = (("ce_specversion", SPEC_VERSION), ("ce_id", id.encode()))
        return Record(self.key, value, [*first, *self.between, ("ce_time", time.isoformat().encode()), *self.after])


def _value(message: Message) -> bytes:
    try:
        return message.__pydantic_serializer__.to_json(message)
    except PydanticSerializationError:
        # Text of a graph may hold lone surrogates, which UTF-8 cannot say; the record must go out all the same.
        return to_json(_sayable(message.model_dump()), inf_nan_mode="null")


def _sayable(value: Any) -> Any:
    """The value with ``?`` for every lone surrogate."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {_sayable(key): _sayable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(item) for item in value]
    return value


def header_text(headers: Iterable[tuple[str, bytes | str | None]] | None) -> dict[str, str]:
    """Headers as text; the last of a repeated name wins.

    Raises:
        UndecodableError: a header is not UTF-8.

    """
    result: dict[str, str] = {}
    for name, value in headers or ():
        if value is None:
            continue
        try:
            result[name] = value if isinstance(value, str) else value.decode()
        except UnicodeDecodeError as error:
            raise UndecodableError("envelope", f"header {name!r} is not UTF-8") from error
    return result


def decode(
    headers: Sequence[tuple[str, bytes | str | None]] | None,
    value: bytes | None,
    types: Mapping[tuple[str, int], type[Message]],
) -> Decoded:
    """Decode one record.

    Args:
        headers: The record's headers.
        value: The record's value.
        types: The accepted message classes by (type, version).

    Raises:
        UndecodableError: a header is missing or malformed (reason ``envelope``), the type is not known (``unknown_type``), its
            version is not known (``unknown_version``), or the value does not fit the schema (``payload``), or the record is of
            one tenant and its thread of another one.

    """
    envelope = _envelope(header_text(headers))
    cls = types.get((envelope.type, envelope.version))
    if cls is None:
        known = sorted(v for t, v in types if t == envelope.type)
        if known:
            raise UndecodableError("unknown_version", f"{envelope.type} version {envelope.version}; known are {known}")
        raise UndecodableError("unknown_type", f"type {envelope.type!r} is not read from this topic")
    if value is None:
        raise UndecodableError("payload", "the record has no value")
    try:
        message = cls.model_validate_json(value)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in error.errors()[:5])
        raise UndecodableError("payload", f"{envelope.type}: {problems}") from error
    if (envelope.tenant, envelope.subject) != (message.tenant, message.thread_id):
        raise UndecodableError("envelope", "the headers name another tenant or thread than the value")
    if not is_possible(message.tenant, message.thread_id):
        detail = f"{envelope.type}: thread {message.thread_id!r} is not one of the tenant {message.tenant!r}"
        raise UndecodableError("payload", detail)
    return Decoded(envelope, message)


def _envelope(attributes: Mapping[str, str]) -> Envelope:
    try:
        return Envelope(
            id=attributes["ce_id"],
            type=attributes["ce_type"],
            version=int(attributes["ce_schemaversion"]),
            source=attributes["ce_source"],
            time=datetime.fromisoformat(attributes["ce_time"]),
            tenant=attributes["ce_tenant"],
            subject=attributes["ce_subject"],
            correlation_id=attributes["ce_correlationid"],
            causation_id=attributes.get("ce_causationid"),
            traceparent=attributes.get("ce_traceparent"),
        )
    except KeyError as error:
        raise UndecodableError("envelope", f"header {error.args[0]!r} is missing") from error
    except ValueError as error:
        raise UndecodableError("envelope", str(error)) from error
