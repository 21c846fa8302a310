"""The AsyncAPI 3.0 document of all topics, generated from the models.

Contract: a pure function of ``topics``, ``catalogue`` and the models. Format: www.asyncapi.com/docs/reference/specification/v3.0.0
and its Kafka bindings 0.5.0. Header schemas describe CloudEvents' Kafka binary mode as ``envelope`` writes it.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from perdure.schemas import deadletter, topics
from perdure.schemas.catalogue import ALL, CONTENTS, file_stem
from perdure.schemas.message import Message
from perdure.schemas.topics import Topic

Json = dict[str, Any]

BINDING_VERSION: Final = "0.5.0"
DEAD_LETTER: Final = "perdure.dead-letter"
KEY: Final[Json] = {"type": "string", "description": "The thread id: one thread is one partition, and its order holds."}

ENVELOPE_HEADERS: Final[dict[str, str]] = {
    "ce_specversion": "The CloudEvents version, 1.0.",
    "ce_id": "Unique within the source, derived from the cause: a repeat has the same id.",
    "ce_type": "The message's type.",
    "ce_source": "Which process wrote it.",
    "ce_time": "When it was written, ISO 8601 with offset.",
    "ce_subject": "The thread id.",
    "ce_schemaversion": "The version of the value's schema, a positive integer.",
    "ce_tenant": "The tenant.",
    "ce_correlationid": "The run id, from the first command to the last event.",
    "content-type": "application/json",
}
OPTIONAL_HEADERS: Final[dict[str, str]] = {
    "ce_causationid": "The id of the record that led to this one.",
    "ce_traceparent": "W3C trace context.",
}
DEAD_HEADERS: Final[dict[str, str]] = {
    deadletter.REASON: "Why it is dead.",
    deadletter.DETAIL: "For people; at most 2,000 characters.",
    deadletter.TOPIC: "The topic that it was read from.",
    deadletter.PARTITION: "The partition that it was read from.",
    deadletter.OFFSET: "Its offset there.",
    deadletter.TIME: "When it was given up, ISO 8601 with offset.",
    deadletter.CONSUMER: "Which process gave it up.",
}


def document(version: str) -> Json:
    """The document; ``version`` is that of this program."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:perdure",
        "info": {
            "title": "Perdure",
            "version": version,
            "description": (
                "Commands and events between the services. Every record is a CloudEvent in Kafka binary mode: "
                "attributes in headers, JSON in the value. The key is the thread id."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"kafka": {"host": "127.0.0.1:19092", "protocol": "kafka", "description": "The local stack."}},
        "channels": {topic.name: _channel(topic) for topic in topics.ALL},
        "operations": _operations(),
        "components": {
            "messages": {**{file_stem(m): _message(m) for m in ALL.values()}, DEAD_LETTER: _dead_letter()},
            "schemas": {"EnvelopeHeaders": _envelope_headers(), **_payloads()},
        },
    }


def _channel(topic: Topic) -> Json:
    found: Json = {
        "address": topic.name,
        "summary": topic.summary,
        "servers": [{"$ref": "#/servers/kafka"}],
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {k: _setting(k, v) for k, v in sorted(topic.config.items())},
                "bindingVersion": BINDING_VERSION,
            }
        },
    }
    names = [file_stem(m) for m in CONTENTS.get(topic.name, {}).values()] or [DEAD_LETTER] * (topic in topics.DEAD)
    if names:
        found["messages"] = {name: {"$ref": f"#/components/messages/{name}"} for name in names}
    else:
        found["description"] = "Reserved: nothing is written here yet."
    return found


def _setting(name: str, value: str) -> Any:
    if name == "cleanup.policy":
        return value.split(",")
    return int(value) if value.isdecimal() else value


def _operations() -> Json:
    carried = [t for t in topics.ALL if t.name in CONTENTS]
    return {
        **{f"send.{t.name}": _operation("send", t) for t in carried},
        **{f"receive.{t.name}": _operation("receive", t) for t in carried if t.consumed},
        **{f"send.{t.dead}": _operation("send", t, t.dead) for t in carried if t.consumed},
        **{f"receive.{t.dead}": _operation("receive", t, t.dead) for t in carried if t.consumed},
    }


def _operation(action: str, topic: Topic, name: str | None = None) -> Json:
    return {"action": action, "channel": {"$ref": f"#/channels/{name or topic.name}"}}


def _message(message: type[Message]) -> Json:
    constants = {"ce_type": message.TYPE, "ce_schemaversion": str(message.VERSION)}
    return {
        "name": message.TYPE,
        "title": message.__name__,
        "summary": (inspect.getdoc(message) or "").partition("\n\n")[0].replace("\n", " "),
        "contentType": "application/json",
        "correlationId": {"location": "$message.header#/ce_correlationid"},
        "headers": {
            "allOf": [
                {"$ref": "#/components/schemas/EnvelopeHeaders"},
                {"type": "object", "properties": {name: {"const": value} for name, value in constants.items()}},
            ]
        },
        "payload": {"$ref": f"#/components/schemas/{message.__name__}"},
        "bindings": {"kafka": {"key": KEY, "bindingVersion": BINDING_VERSION}},
    }


def _dead_letter() -> Json:
    properties: Json = {name: {"type": "string", "description": text} for name, text in DEAD_HEADERS.items()}
    properties[deadletter.REASON]["enum"] = [reason.value for reason in deadletter.Reason]
    return {
        "name": DEAD_LETTER,
        "title": "Dead letter",
        "summary": "A record that could not be handled: its key, value and headers as they were, and these headers.",
        "contentType": "application/octet-stream",
        "headers": {"type": "object", "required": list(DEAD_HEADERS), "properties": properties},
        "payload": {"description": "The original bytes."},
        "bindings": {"kafka": {"key": {"description": "The original key."}, "bindingVersion": BINDING_VERSION}},
    }


def _envelope_headers() -> Json:
    properties: Json = {
        name: {"type": "string", "description": text} for name, text in (ENVELOPE_HEADERS | OPTIONAL_HEADERS).items()
    }
    properties["ce_specversion"]["const"] = "1.0"
    properties["ce_schemaversion"]["pattern"] = "^[1-9][0-9]*$"
    properties["ce_time"]["format"] = "date-time"
    return {"type": "object", "required": list(ENVELOPE_HEADERS), "properties": properties}


def _payloads() -> Json:
    _, found = models_json_schema(
        [(m, "validation") for m in ALL.values()], ref_template="#/components/schemas/{model}"
    )
    schemas: Json = _named_discriminators(found["$defs"])
    return schemas


def _named_discriminators(schema: Any) -> Any:
    """A schema with AsyncAPI's discriminator, which is only the name of the property (OpenAPI's is an object)."""
    if isinstance(schema, list):
        return [_named_discriminators(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _named_discriminators(value) for key, value in schema.items()}
    if isinstance(found.get("discriminator"), dict) and "propertyName" in found["discriminator"]:
        found["discriminator"] = found["discriminator"]["propertyName"]
    return found
