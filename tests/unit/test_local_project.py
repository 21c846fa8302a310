"""What `perdure up` and `perdure dev` say about a project that cannot be served: each mistake, with the place and what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

from perdure.local.display import SilentDisplay
from perdure.local.errors import ProjectError
from perdure.local.project import check_project

LIMIT_S = 60.0
GRAPH = """
from langgraph.graph import END, START, StateGraph

print("hello from the import")
builder = StateGraph(dict)
builder.add_node("n", lambda state: state)
builder.add_edge(START, "n")
builder.add_edge("n", END)
graph = builder.compile()
number = 7

def make():
    raise RuntimeError("no key")
"""


class Lines(SilentDisplay):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def project(folder: Path, target: str, **files: str) -> Path:
    (folder / "agent.py").write_text(GRAPH)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    config = folder / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"a": target}}))
    return config


def problem(config: Path, **options: Any) -> str:
    with pytest.raises(ProjectError) as caught:
        check_project(config, {}, SilentDisplay(), **{"limit_s": LIMIT_S} | options)
    return str(caught.value)


def test_a_project_that_can_be_served_is_accepted_whatever_it_prints(tmp_path: Path) -> None:
    assert check_project(project(tmp_path, "./agent.py:graph"), {}, SilentDisplay(), limit_s=LIMIT_S) == ["a"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"graphs": {\n  "a": "./agent.py:graph",\n}}', ["is not JSON", "langgraph.json:2:", "^"]),
        ("{}", ['"graphs" must map', '"graphs": {"agent": "./agent.py:graph"}']),
        ('{"graphs": ["./agent.py:graph"]}', ['"graphs" must map']),
        ('{"graphs": {"a": "./agent.py"}}', ["graph 'a'", "must have the form", '"./agent.py:graph"']),
        ('{"graphs": {"a": "./agnt.py:graph"}}', ["agnt.py does not exist", "Did you mean 'agent.py'?"]),
        ('{"graphs": {"a": "./bad.py:graph"}}', ["SyntaxError", "bad.py:2:10\n", "    WORD = = 1\n           ^"]),
    ],
)
def test_mistakes_that_are_found_without_running_anything(
    tmp_path: Path, text: str, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = project(tmp_path, "", bad="if True:\n  WORD = = 1\n")
    config.write_text(text)
    monkeypatch.setattr("subprocess.Popen", None)
    said = problem(config)
    for part in parts:
        assert part in said


def test_no_file(tmp_path: Path) -> None:
    assert "langgraph.json does not exist. Start in the project's folder" in problem(tmp_path / "langgraph.json")


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("./agent.py:grahp", ["has no variable 'grahp'. Did you mean 'graph'?"]),
        ("./agent.py:number", ["is a int, not a LangGraph graph. Name a compiled graph"]),
        ("./agent.py:StateGraph", ["StateGraph is a class, not a LangGraph graph"]),
        ("./agent.py:make", ["the factory failed: RuntimeError: no key", "agent.py:13, in make"]),
        (
            "./lacks.py:graph",
            ["ModuleNotFoundError", "lacks.py:1", sys.executable, "-m pip install no_such_module_xyz"],
        ),
        ("no_such_module_xyz:graph", ["ModuleNotFoundError", sys.executable]),
        ("./quits.py:graph", ["SystemExit: 0"]),
        ("./dies.py:graph", ["importing ./dies.py:graph", "ended the process (exit code 3)", "last words"]),
    ],
)
def test_mistakes_that_the_import_shows(tmp_path: Path, target: str, parts: list[str]) -> None:
    said = problem(
        project(
            tmp_path,
            target,
            lacks="import no_such_module_xyz\n",
            quits="import sys; sys.exit(0)\n",
            dies="import os; print('last words', flush=True); os._exit(3)\n",
        )
    )
    for part in parts:
        assert part in said


def test_a_traceback_shows_the_lines_of_the_user_only(tmp_path: Path) -> None:
    code = "from langgraph.graph import StateGraph\nb = StateGraph(dict)\nb.add_edge('a', 'b')\ngraph = b.compile()\n"
    said = problem(project(tmp_path, "./odd.py:graph", odd=code))
    assert f"{tmp_path / 'odd.py'}:4, in <module>\n    graph = b.compile()" in said
    assert "site-packages" not in said
    assert "importlib" not in said


def test_an_import_that_hangs_is_given_up_and_shown_where_it_hangs(tmp_path: Path) -> None:
    code = "import threading\nprint('waiting', flush=True)\nthreading.Event().wait(600)\n"
    said = problem(project(tmp_path, "./hangs.py:graph", hangs=code), limit_s=1.0)
    assert "importing ./hangs.py:graph (graph 'a' of " in said
    assert "has not ended after 1 s. It is here:" in said
    assert "hangs.py:3, in <module>\n    threading.Event().wait(600)" in said


def test_a_slow_import_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.local.project._SAY_AFTER_S", 0.0)
    shown = Lines()
    check_project(project(tmp_path, "./agent.py:graph"), {}, shown, limit_s=LIMIT_S)
    assert shown.lines
    assert shown.lines[0].startswith("still importing ")


def test_what_the_import_started_ends_with_the_check(tmp_path: Path) -> None:
    code = "import pathlib, subprocess\npathlib.Path('pid').write_text(str(subprocess.Popen(['sleep', '600']).pid))\n"
    problem(project(tmp_path, "./starts.py:graph", starts=code))
    pid = int((tmp_path / "pid").read_text())
    stat = Path(f"/proc/{pid}/stat")
    until_blocking(lambda: not stat.exists() or "Z" in stat.read_text().rpartition(")")[2], "the child is gone")


def test_a_check_is_given_up_when_the_command_is_stopped(tmp_path: Path) -> None:
    assert "given up" in problem(project(tmp_path, "./agent.py:graph"), stopping=lambda: True)
