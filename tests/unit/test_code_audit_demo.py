"""What the demo checks: the division of the tree, the files of a result, the line of a history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perdure.cli.demo_agents import Agent, compare, divide, early_finding, recovery, walk


def test_the_walk_finds_modules_by_part(tmp_path: Path) -> None:
    for file in ("top.py", "pkg/a.py", "pkg/sub/b.py", "pkg/test/c.py", "empty/x.txt", "site-packages/d.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert walk(tmp_path) == {".": {"top.py"}, "pkg": {"pkg/a.py", "pkg/sub/b.py"}}


def test_parts_are_divided_evenly_and_whole() -> None:
    parts = {name: {f"{name}/{i}.py" for i in range(count)} for name, count in {"a": 9, "b": 5, "c": 4, "d": 1}.items()}
    agents = divide(parts, 2)
    assert [agent.packages for agent in agents] == [["a", "d"], ["b", "c"]]
    assert [len(agent.files) for agent in agents] == [10, 9]
    assert len(divide(parts, 9)) == 4


def results(*files: str) -> dict[str, Any]:
    return {"audited": [{"file": file} for file in files], "findings": []}


def test_files_are_compared() -> None:
    agent = Agent("agent 1", ["."], frozenset({"a.py", "b.py"}))
    assert compare(agent, results("b.py", "a.py")).good
    verdict = compare(agent, results("a.py", "a.py", "x.py"))
    assert (verdict.missing, verdict.twice, verdict.unexpected) == (["b.py"], ["a.py"], ["x.py"])
    assert not verdict.good


def history(*steps: int) -> list[dict[str, Any]]:
    """Newest first; the checkpoint of step n is ``c<n>``."""
    states = [
        {
            "metadata": {"step": step},
            "parent_checkpoint": {"checkpoint_id": f"c{steps[i - 1]}"} if i else None,
            "created_at": "2026-01-01T00:00:00+00:00",
        }
        for i, step in enumerate(steps)
    ]
    return states[::-1]


def killed_at(step: int) -> Agent:
    return Agent("agent 1", ["."], frozenset(), kill_step=step, kill_checkpoint=f"c{step}")


def test_a_history_that_goes_on_is_good() -> None:
    found = recovery(killed_at(2), history(-1, 0, 1, 2, 3, 4))
    assert found.first_step == 3
    assert not found.problems


@pytest.mark.parametrize("steps", [(-1, 0, 1, 1, 2), (-1, 0, 2), (5, 6), (-1, 0, 1)])
def test_a_history_with_a_gap_a_repeat_or_an_end_is_not(steps: tuple[int, ...]) -> None:
    assert recovery(killed_at(1), history(*steps)).problems


def test_an_early_finding_is_chosen() -> None:
    values = results("a.py", "b.py", "c.py", "d.py")
    values["findings"] = [{"file": "a.py", "severity": "low"}, {"file": "d.py", "severity": "high"}]
    assert early_finding(values) is None
    values["findings"].append({"file": "b.py", "severity": "high"})
    assert early_finding(values) == {"file": "b.py", "severity": "high"}
