"""``perdure dev`` on real servers, with a stand-in for agent-step that only says which code it was started with."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.local.dev import run_dev
from perdure.local.display import SilentDisplay
from perdure.local.errors import LocalError
from perdure.local.stack import Stack

SERVICE = """
import http.server, os, runpy
print("project says", runpy.run_path("agent.py")["WORD"], "for", os.environ["PERDURE_LANGGRAPH_CONFIG"], flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["PERDURE_HEALTH_PORT"])), Handler).serve_forever()
"""


class Lines(SilentDisplay):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def until(self, part: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not any(part in line for line in self.lines):
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.05)


def test_agent_step_starts_anew_when_the_code_changes(
    own_stack: Callable[..., Stack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "code" / "perdure" / "agent_step"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SERVICE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code") + os.pathsep + os.environ.get("PYTHONPATH", ""))
    project = tmp_path / "project"
    project.mkdir()
    (project / "langgraph.json").write_text("{}")
    (project / "agent.py").write_text("WORD = 'one'")
    stack, shown, stop = own_stack("kafka", "mongodb", "opensearch"), Lines(), threading.Event()
    options = {"display": shown, "stop": stop, "stack": stack, "names": ["agent_step"]}
    dev = threading.Thread(target=run_dev, args=(project / "langgraph.json",), kwargs=options)
    dev.start()
    try:
        shown.until(f"agent_step | project says one for {project / 'langgraph.json'}")
        shown.until("Ctrl-C stops everything")
        (project / "agent.py").write_text("WORD = = 'broken'")
        shown.until("agent.py changed: starting agent-step anew")
        shown.until("Waiting for the next change")
        assert any("SyntaxError" in line for line in shown.lines)
        (project / "notes.txt").write_text("not code")
        (project / "agent.py").write_text("WORD = 'two'")
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
