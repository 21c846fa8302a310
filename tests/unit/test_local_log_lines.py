"""Lines of logs for people, as JSON, and by thread and run."""

from __future__ import annotations

import json

import pytest
from rich.text import Text

from perdure.cli.output import failure
from perdure.local.log_lines import Wanted, as_value, for_people, made_at, record_of


def line(**fields: object) -> str:
    return json.dumps({"timestamp": "2020-01-02T03:04:05.678901Z", "level": "info", "service": "agent-step", **fields})


def test_a_record_is_one_short_line() -> None:
    made = line(event="run.ended", run_id="r", thread_id="t", graph="g", node="n", status="success", next=[], steps=3)
    shown = for_people("agent_step", made).plain
    assert shown.startswith("agent_step | 2020-01-0")
    assert ".678 info    run.ended  status=success  steps=3  graph=g  node=n  thread_id=t" in shown
    assert "run_id" not in shown
    assert "thread_id" not in for_people("", made, Wanted(thread_id="t").unshown).plain


def test_a_traceback_has_its_lines_each_with_its_source() -> None:
    trace = 'Traceback (most recent call last):\n  File "a.py", line 3, in total\n    raise ValueError("no")\nValueError: no'
    shown = for_people("gateway", line(event="failed", level="error", exception=trace)).plain.splitlines()
    assert shown[1:] == [f"gateway    |     {one}" for one in trace.splitlines()]


def test_what_is_logged_cannot_control_the_terminal() -> None:
    evil = "\x1b[31mred\x07 \u202egnp"
    for shown in (for_people("", line(event=evil, note=evil)).plain, for_people("", evil).plain):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "\\u{1b}[31mred" in shown
    assert for_people("", "plain [bold]text[/]").plain == "plain [bold]text[/]"


def test_values_are_short() -> None:
    made = line(event="kafka.assigned", partitions={"perdure.commands": 12, "b": 1}, text="x" * 1000, ok=True)
    shown = for_people("", made).plain
    assert "partitions=perdure.commands:12,b:1" in shown
    assert f"text={'x' * 300}..." in shown
    assert "x" * 301 not in shown
    assert "ok=true" in shown


@pytest.mark.parametrize("text", ["", "plain", "{not json", '{"a": 1}', "[1]", "{"])
def test_plain_text_stays(text: str) -> None:
    assert record_of(text) is None
    assert as_value("kafka", text) == {"source": "kafka", "line": text}
    assert for_people("", text).plain == text


def test_json_keeps_every_field() -> None:
    made = line(event="e", source="theirs", line=1)
    assert as_value("s", made) == {"source": "s", "record": json.loads(made)}


def test_by_thread_and_run() -> None:
    lines = [
        line(event="a", thread_id="t1", run_id="r1"),
        line(event="b", thread_id="t1", run_id="r2"),
        line(event="c", thread_id="t2", note="t1 r1"),
        line(event="d"),
        "t1 as plain text",
    ]

    def found(wanted: Wanted) -> list[object]:
        return [(record_of(one) or {}).get("event") for _, one in wanted.lines(("s", one) for one in lines)]

    assert found(Wanted(thread_id="t1")) == ["a", "b"]
    assert found(Wanted(run_id="r1")) == ["a"]
    assert found(Wanted(thread_id="t1", run_id="r2")) == ["b"]
    assert found(Wanted(thread_id="t2", run_id="r2")) == []
    assert len(found(Wanted())) == len(lines)
    assert made_at(lines[0]) == "2020-01-02T03:04:05.678901"
    assert made_at("text") == ""


def test_a_failure_begins_with_node_and_message() -> None:
    error = {"type": "ValueError", "message": "no net", "node": "total", "traceback": "Traceback:\n  here\n"}
    assert isinstance(failure(error), Text)
    assert failure(error).plain == "at node total: ValueError: no net\nTraceback:\n  here"
    assert failure(error | {"node": None, "traceback": None}).plain == "ValueError: no net"
