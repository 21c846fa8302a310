"""Values that people type."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from perdure.cli.parsing import json_argument, json_or_text, moment

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_json_comes_from_text_a_file_or_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json_argument('{"a": [1, "ü"]}', "--input") == {"a": [1, "ü"]}
    path = tmp_path / "input.json"
    path.write_text("[1]")
    assert json_argument(f"@{path}", "--input") == [1]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"x"')))
    assert json_argument("-", "--input") == "x"


@pytest.mark.parametrize(("text", "named"), [("{a", "not JSON"), ("@/nowhere/x.json", "/nowhere/x.json"), ("", "JSON")])
def test_what_is_not_json_is_explained(text: str, named: str) -> None:
    with pytest.raises(typer.BadParameter, match=named):
        json_argument(text, "--input")


@pytest.mark.parametrize(
    ("text", "value"), [("yes", "yes"), ("true", True), ('"true"', "true"), ('{"a": 1}', {"a": 1}), ("go on", "go on")]
)
def test_an_answer_may_be_plain_text(text: str, value: object) -> None:
    assert json_or_text(text, "VALUE") == value


@pytest.mark.parametrize(
    ("text", "ago"),
    [("90m", timedelta(minutes=90)), ("2h", timedelta(hours=2)), ("1.5d", timedelta(days=1.5)), ("now", timedelta())],
)
def test_a_moment_may_be_said_as_a_span(text: str, ago: timedelta) -> None:
    assert moment(text, "--since", NOW) == (NOW - ago).isoformat()


def test_a_moment_is_sent_in_utc() -> None:
    assert moment("2026-11-23T10:00:00+02:00", "--since") == "2026-11-23T08:00:00+00:00"
    assert moment(None, "--since") is None
    midnight = datetime.fromisoformat(moment("yesterday", "--since", NOW) or "").astimezone()
    assert (midnight.hour, midnight.minute) == (0, 0)
    assert timedelta(hours=11) < NOW - midnight < timedelta(hours=49)


def test_what_is_no_moment_is_explained() -> None:
    with pytest.raises(typer.BadParameter, match="yesterday"):
        moment("last week", "--since")
