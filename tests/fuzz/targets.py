"""What is fuzzed: functions that read what strangers send, with what they may raise and how long they may take.

Each target takes bytes, so that a corpus is files; its strategy makes bytes that look like what the function reads.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from hypothesis import strategies as st

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.hosts import Hosts
from perdure.chassis.project import read_project, read_targets
from perdure.gateway.answers.mail import heading_of, letter_of
from perdure.gateway.http.bodies import parsed
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.resources.batches.lines import Lines, parse_lines
from perdure.gateway.search.query import SearchProblem, body_of
from perdure.gateway.search.query import parse as parse_search
from perdure.registry.answers import BrokenSchema, reasons
from perdure.schemas.catalogue import ALL
from perdure.schemas.envelope import UndecodableError, decode

NOW: Final = datetime(2026, 11, 30, 12, tzinfo=UTC)
PARTS: Final = 12


@dataclass(frozen=True, slots=True)
class Target:
    """One function that reads what strangers send."""

    run: Callable[[bytes], object]
    expected: tuple[type[Exception], ...]
    strategy: st.SearchStrategy[bytes]
    most_s: float = 2.0
    """CPU seconds for one input."""


def envelope(data: bytes) -> object:
    """A record of Kafka: headers, one a line, then its value."""
    head, _, value = data.partition(b"\n\n")
    headers = [
        (name.decode(errors="replace"), text) for name, _, text in (line.partition(b":") for line in head.split(b"\n"))
    ]
    return decode(headers, value, ALL)


def search(data: bytes) -> object:
    """A query of ``GET /search``."""
    text = data.decode(errors="replace")
    found = parse_search({"q": text}, NOW)
    return orjson.dumps(body_of(found, "default"))


def ndjson(data: bytes) -> object:
    """An upload, however it is cut: the same lines."""
    whole = Lines(200)
    expected = [*whole.feed(data), *whole.end()]
    lines, found, place = Lines(200), [], 0
    cuts = random.Random(len(data))
    while place < len(data):
        size = cuts.randint(1, 9)
        found += lines.feed(data[place : place + size])
        place += size
    assert [*found, *lines.end()] == expected
    naive = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    assert [one.data for one in expected] == [line if len(line) <= 200 else None for line in naive]
    return parse_lines(expected, "batch", 1)


def mail(data: bytes) -> object:
    """A raw mail."""
    heading = heading_of(data)
    for text in (heading.subject, heading.sender, heading.message_id, heading.sender_name):
        assert "\n" not in text
        assert "\0" not in text
    return orjson.dumps(letter_of(data).attachments)


def project(data: bytes) -> object:
    """A ``langgraph.json``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "langgraph.json"
        file.write_bytes(data)
        return read_project(file), read_targets(file)


def answer(data: bytes) -> object:
    """A schema and an answer, as a JSON array."""
    try:
        schema, given = orjson.loads(data)
    except ValueError:
        return None
    return reasons(schema, given) if isinstance(schema, dict) else None


def body(data: bytes) -> object:
    """A JSON body: what is parsed can be written again."""
    return orjson.dumps(parsed(data, 100))


def hosts(data: bytes) -> object:
    """An entry of a list of hosts: it names no host of a stranger."""
    from yarl import URL

    text = data.decode(errors="replace")
    listed = Hosts([text], "SETTING")
    stranger = URL("https://stranger.invalid/")
    assert not listed.name(stranger) or text.strip().lower().rstrip(".").endswith(
        ("stranger.invalid", "*.invalid", "invalid:443")
    )
    return listed


def joined(*words: str, most: int = PARTS) -> st.SearchStrategy[bytes]:
    """Words in any order, with anything between them."""
    part = (
        st.sampled_from([word.encode() for word in words]) | st.binary(max_size=6) | st.text(max_size=4).map(str.encode)
    )
    return st.lists(part, max_size=most).map(b"".join)


VALUE: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
PATTERNS: Final = st.sampled_from(
    ["^(a+)+$", ".", "(?=a)", "[", "\\d{3}", "a|b", "(x{100}){100}", "\\p{L}", ""]
) | st.text("a+()[]\\*?|", max_size=8)
REFERENCES: Final = st.sampled_from(["#", "#/$defs/a", "#a", "#/properties/a", "http://x/y", "#/items/0", "a.json"])
SCHEMA: Final[st.SearchStrategy[Any]] = st.recursive(
    st.booleans()
    | st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(
                ["string", "object", "array", "number", "integer", "null", ["string", "null"], "x"]
            ),
            "pattern": PATTERNS,
            "$ref": REFERENCES,
            "$dynamicRef": REFERENCES,
            "$anchor": st.sampled_from(["a", "b"]),
            "$id": st.sampled_from(["http://x/y", "a.json"]),
            "$schema": st.sampled_from(
                ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"]
            ),
            "enum": st.lists(VALUE, max_size=3),
            "const": VALUE,
            "uniqueItems": st.booleans(),
            "minLength": st.integers(-1, 5),
            "multipleOf": st.sampled_from([0, 1, 0.1, 1e-300]),
            "required": st.lists(st.sampled_from(["a", "b"]), max_size=2),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from(["a", "b", "$ref"]), inner, max_size=3),
            "patternProperties": st.dictionaries(PATTERNS, inner, max_size=2),
            "additionalProperties": inner,
            "unevaluatedProperties": inner,
            "unevaluatedItems": inner,
            "propertyNames": inner,
            "items": inner,
            "prefixItems": st.lists(inner, max_size=2),
            "contains": inner,
            "allOf": st.lists(inner, max_size=3),
            "anyOf": st.lists(inner, max_size=3),
            "oneOf": st.lists(inner, max_size=3),
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "$defs": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
            "dependentSchemas": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
        },
    ),
    max_leaves=10,
)
HEADERS: Final = st.sampled_from(
    [
        f"ce_{name}".encode()
        for name in ("id", "type", "schemaversion", "source", "time", "tenant", "subject", "correlationid")
    ]
)
HEADER_VALUES: Final = st.sampled_from(
    [name.encode() for name, _ in ALL] + [b"1", b"2026-11-30T12:00:00+00:00", b"9" * 5000]
) | st.binary(max_size=8)


def _records() -> st.SearchStrategy[bytes]:
    lines = st.lists(st.tuples(HEADERS, HEADER_VALUES).map(b":".join), max_size=10).map(b"\n".join)
    value = VALUE.map(orjson.dumps) | joined("{", "}", '"tenant"', ":", '"', ",", "[", "]")
    return st.tuples(lines, value).map(b"\n\n".join)


TARGETS: Final[dict[str, Target]] = {
    "envelope": Target(envelope, (UndecodableError,), _records()),
    "search": Target(
        search,
        (SearchProblem,),
        joined(
            "at:",
            "since:",
            "until:",
            "node:",
            "status:",
            "step",
            "duration>",
            "metadata.",
            ">=",
            "..",
            "9999-12-31",
            "0001-01-01",
            "*",
            '"',
            "\\",
            "(",
            ")",
            "-",
            "NOT ",
            " AND ",
            " OR ",
            "|",
            ",",
            "yesterday",
            "1e999",
            "9" * 30,
            "error",
            "\u0130",
        ),
    ),
    "ndjson": Target(
        ndjson,
        (),
        joined("\n", "\n\n", " \t\r\n", '{"input": 1}', '{"input": {"a": [', "]}", "\ufeff", "x" * 150, "[]", ","),
    ),
    "mail": Target(
        mail,
        (),
        joined(
            "From: ",
            "To: ",
            "Subject: ",
            "Date: ",
            "Content-Type: ",
            "multipart/mixed; boundary=b",
            "text/html; charset=",
            "\r\n",
            "\r\n\r\n",
            "--b\r\n",
            "--b--",
            "=?utf-8?b?",
            "?=",
            "<a@b>",
            "(",
            ")",
            '"',
            "\0",
            "message/rfc822",
            "Content-Disposition: attachment; filename=",
            "Content-Transfer-Encoding: base64",
            "<div><blockquote>",
            "On x wrote:\n> ",
            "utf-99",
            "idna",
            "References: ",
            most=30,
        ),
    ),
    "langgraph": Target(
        project,
        (ConfigurationError,),
        joined(
            '{"graphs": {',
            '"a"',
            ": ",
            '"./a.py:g"',
            "}}",
            "}",
            "{",
            '"dependencies"',
            '["."]',
            '"env"',
            ",",
            '"auth"',
            "null",
            "[" * 500,
            "1e999",
        )
        | VALUE.map(lambda value: json.dumps({"graphs": value}).encode()),
    ),
    "answers": Target(answer, (BrokenSchema,), st.tuples(SCHEMA, VALUE).map(orjson.dumps), most_s=10.0),
    "body": Target(
        body,
        (RequestProblem,),
        joined("[", "]", "{", "}", ",", ":", '"', "\\", "1", "[" * 300, "]" * 300, "[]," * 60, "true", "9" * 40),
    ),
    "hosts": Target(
        hosts,
        (ConfigurationError,),
        joined(
            "*.",
            "*",
            "example.com",
            "invalid",
            "stranger",
            ".",
            ":443",
            "10.0.0.0/8",
            "[::1]",
            "@",
            "/",
            "?",
            "#",
            "xn--",
            "\u3002",
            "\uff11",
        ),
    ),
}
