"""``perdure dev`` on real servers: agent-step only, and which code it was started with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.polling import until_blocking

from perdure.cli.provision import provision
from perdure.local.dev import run_dev
from perdure.local.display import SilentDisplay
from perdure.local.errors import LocalError
from perdure.local.stack import Stack

AGENT = """
from langgraph.graph import END, START, StateGraph

WORD = "one"
print("project says", WORD, flush=True)
builder = StateGraph(dict)
builder.add_node("n", lambda state: state)
builder.add_edge(START, "n")
builder.add_edge("n", END)
graph = builder.compile()
"""


class Lines(SilentDisplay):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def until(self, part: str, seconds: float = 90.0) -> None:
        until_blocking(
            lambda: self.lines, f"{part!r} is said", seconds, holds=lambda lines: any(part in line for line in lines)
        )


def test_agent_step_starts_anew_when_the_code_changes(own_stack: Callable[..., Stack], tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "langgraph.json").write_text('{"graphs": {"agent": "./agent.py:graph"}}')
    (project / "agent.py").write_text(AGENT)
    stack, shown, stop = own_stack("kafka", "mongodb", "opensearch"), Lines(), threading.Event()
    options = {"display": shown, "stop": stop, "stack": stack, "names": ["agent_step"], "prepare": provision}
    dev = threading.Thread(target=run_dev, args=(project / "langgraph.json",), kwargs=options)
    dev.start()
    try:
        shown.until("agent_step | project says one")
        shown.until("Ctrl-C stops everything")
        (project / "agent.py").write_text(AGENT.replace('"one"', '= "broken"'))
        shown.until("agent-step keeps running with the code from before. Waiting for the next change.")
        assert any("agent.py changed: " in line and "SyntaxError" in line for line in shown.lines)
        (project / "notes.txt").write_text("not code")
        (project / "agent.py").write_text(AGENT.replace('"one"', '"two"'))
        shown.until("agent.py changed: starting agent-step anew")
        shown.until("agent_step | project says two")
    finally:
        stop.set()
        dev.join(60)
    assert not dev.is_alive()
    assert not stack.folder.exists()
    assert not any("notes.txt" in line for line in shown.lines)


def test_a_missing_configuration_is_said(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"nothing\.json does not exist"):
        run_dev(tmp_path / "nothing.json")
