"""The example agent: what it finds, which files it reads, how it asks and what it writes."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

EXAMPLE = Path(__file__).parents[2] / "examples" / "code_audit"
MODULES = ("agent", "constructs", "report", "sources")


@pytest.fixture(scope="module")
def agent() -> Iterator[ModuleType]:
    """The example's module, imported as agent-step does: with its folder on the path."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        import agent  # type: ignore[import-not-found,unused-ignore]

        yield agent
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in MODULES:
            sys.modules.pop(name, None)


def inspect(agent: ModuleType, tmp_path: Path, source: str, name: str = "module.py") -> list[tuple[int, str, str]]:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    result, findings = agent.inspect_file(tmp_path, name)
    assert result["error"] == ""
    assert result["findings"] == len(findings)
    return [(f["line"], f["construct"], f["severity"]) for f in findings]


@pytest.mark.parametrize(
    ("source", "construct", "severity"),
    [
        ("eval(input())", "eval", "high"),
        ("exec('1')", "exec", "high"),
        ("import os\nos.system('ls')", "os.system", "high"),
        ("from os import system as run\nrun('ls')", "os.system", "high"),
        ("import pickle as p\np.loads(b'')", "unpickling", "high"),
        ("import marshal\nmarshal.loads(b'')", "unmarshalling", "medium"),
        ("import subprocess as sp\nsp.run('ls', shell=True)", "subprocess with shell=True", "high"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp", "medium"),
        ("import yaml\nyaml.load(text)", "yaml.load", "high"),
        ("import hashlib\nhashlib.md5(b'')", "weak hash", "medium"),
        ("import hashlib\nhashlib.new('SHA1')", "weak hash", "medium"),
        ("try:\n    pass\nexcept:\n    pass", "bare except", "low"),
        ("def f(x):\n    assert x", "assert as validation", "low"),
        ("def f(x=[]): pass", "mutable default argument", "low"),
        ("f = lambda *, x=dict(): x", "mutable default argument", "low"),
    ],
)
def test_risky_constructs_are_found(
    agent: ModuleType, tmp_path: Path, source: str, construct: str, severity: str
) -> None:
    assert [(found, level) for _, found, level in inspect(agent, tmp_path, source)] == [(construct, severity)]


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import subprocess\nsubprocess.run(['ls'])",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import hashlib\nhashlib.md5(b'', usedforsecurity=False)",
        "import hashlib\nhashlib.new('sha256')",
        "from .pickle import loads\nloads(b'')",
        "def f(x=()): pass",
        "try:\n    pass\nexcept Exception:\n    pass",
    ],
)
def test_harmless_code_has_no_findings(agent: ModuleType, tmp_path: Path, source: str) -> None:
    assert inspect(agent, tmp_path, source) == []


def test_assert_is_right_in_tests(agent: ModuleType, tmp_path: Path) -> None:
    assert inspect(agent, tmp_path, "assert 1", "pkg/tests/support.py") == []
    assert inspect(agent, tmp_path, "assert 1", "test_it.py") == []


@pytest.mark.parametrize("content", [b"def (:", b"x = '\0'", b"# coding: nonsense\n", b"\xff\xfe"])
def test_a_file_that_is_no_python_is_recorded(agent: ModuleType, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.py").write_bytes(content)
    result, findings = agent.inspect_file(tmp_path, "bad.py")
    assert result["error"]
    assert findings == []


def test_many_threads_may_parse_at_once(agent: ModuleType) -> None:
    root = Path(sysconfig.get_path("stdlib"))
    files = agent.list_files(root, ["asyncio", "email", "importlib"]) * 2
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda file: agent.inspect_file(root, file)[0], files))
    assert [result["error"] for result in results] == [""] * len(files)


def tree(root: Path) -> None:
    for file in ("top.py", "pkg/a.py", "pkg/sub/b.py", "pkg/test/c.py", "other/d.py", "__pycache__/e.py", "notes.txt"):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import os\nos.system('ls')\n")


def test_files_of_parts(agent: ModuleType, tmp_path: Path) -> None:
    tree(tmp_path)
    assert agent.list_files(tmp_path) == ["other/d.py", "pkg/a.py", "pkg/sub/b.py", "top.py"]
    assert agent.list_files(tmp_path, ["."]) == ["top.py"]
    assert agent.list_files(tmp_path, ["pkg", "pkg/sub"]) == ["pkg/a.py", "pkg/sub/b.py"]
    for wrong in ("..", "missing", "top.py"):
        with pytest.raises(ValueError, match="not a folder below"):
            agent.list_files(tmp_path, [wrong])


def start(agent: ModuleType, **values: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    graph = agent.builder.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t1"}}
    return graph, config, graph.invoke(values, config)


def test_it_pauses_and_writes_the_report_when_approved(agent: ModuleType, tmp_path: Path) -> None:
    tree(tmp_path / "src")
    graph, config, paused = start(agent, root=str(tmp_path / "src"), output=str(tmp_path / "out"), batch=2)
    question = paused["__interrupt__"][0].value
    assert question["summary"]["files"] == 4
    assert question["summary"]["by_severity"]["high"] == 4
    steps = [state.metadata["step"] for state in graph.get_state_history(config)]
    assert max(steps) == 3  # plan and two batches of two files
    done = graph.invoke(Command(resume="approve"), config)
    assert sorted(result["file"] for result in done["audited"]) == agent.list_files(tmp_path / "src")
    assert (tmp_path / "out" / "code-audit-t1.md").read_text() == done["report"]
    assert "4 files, 8 lines, 4 findings: 4 high" in done["report"]
    assert "- `pkg/sub/b.py:2` os.system: `os.system('ls')`" in done["report"]
    assert done["messages"][-1]["content"].startswith("The report on src is written")


def test_it_asks_again_and_ends_without_a_report_when_rejected(agent: ModuleType, tmp_path: Path) -> None:
    tree(tmp_path / "src")
    graph, config, _ = start(agent, root=str(tmp_path / "src"), output=str(tmp_path / "out"))
    unclear = graph.invoke(Command(resume="perhaps"), config)
    assert "__interrupt__" in unclear
    done = graph.invoke(Command(resume={"decision": "reject", "reason": "too noisy"}), config)
    assert (done["decision"], done["reason"], done["report"]) == ("rejected", "too noisy", "")
    assert not (tmp_path / "out").exists()
    assert [m["content"] for m in done["messages"][-2:]] == ["Rejected: too noisy.", "No report on src: too noisy."]


def test_a_second_start_adds_to_the_first(agent: ModuleType, tmp_path: Path) -> None:
    tree(tmp_path)
    graph, config, _ = start(agent, root=str(tmp_path), packages=["."])
    graph.invoke(Command(resume=True), config)
    graph.invoke({"packages": []}, config)
    done = graph.invoke(Command(resume=True), config)
    assert [result["file"] for result in done["audited"]] == ["top.py", "other/d.py", "pkg/a.py", "pkg/sub/b.py"]


def test_an_empty_tree_goes_straight_to_the_question(agent: ModuleType, tmp_path: Path) -> None:
    _, _, paused = start(agent, root=str(tmp_path))
    assert paused["__interrupt__"][0].value["summary"]["files"] == 0


def test_the_standard_library_has_findings(agent: ModuleType) -> None:
    graph = agent.builder.compile(checkpointer=InMemorySaver())
    paused = graph.invoke({"packages": ["logging", "json"]}, {"configurable": {"thread_id": "t1"}})
    assert {"file": "logging/config.py", "construct": "eval"}.items() <= {
        key: value for finding in paused["findings"] if finding["construct"] == "eval" for key, value in finding.items()
    }.items()
