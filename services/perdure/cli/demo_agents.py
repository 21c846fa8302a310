"""The agents of the demo: how a source tree is divided among them, and what must be true of their results.

Scope: functions of the tree on disk and of what the gateway answered. The walk of the tree is written anew here,
so that it shares no mistake with the agent's own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

TOP = "."
SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__", "test"})


@dataclass(slots=True)
class Agent:
    """One agent: what it shall read, and where it is."""

    name: str
    packages: list[str]
    files: frozenset[str]
    """What the walk found for it."""
    thread_id: str = ""
    run_id: str = ""
    location: str = ""
    kill_step: int = -1
    """The step of its last checkpoint when the worker was killed."""
    kill_checkpoint: str = ""
    kill_files: int = 0
    waiting_at_kill: bool = False
    """It had come to its question before the kill, so nothing of it was running."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the files of a result differ from those of the walk; all empty if they do not."""

    missing: Sequence[str] = ()
    twice: Sequence[str] = ()
    unexpected: Sequence[str] = ()

    @property
    def good(self) -> bool:
        """Every file is there exactly once."""
        return not (self.missing or self.twice or self.unexpected)


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a history goes on after the kill."""

    first_step: int | None = None
    """The step of the first checkpoint after the last one before the kill."""
    created_at: datetime | None = None
    problems: Sequence[str] = field(default_factory=tuple)


def walk(root: Path) -> dict[str, set[str]]:
    """All Python files below ``root`` by top-level folder (``"."`` for the modules in the root itself)."""
    parts: dict[str, set[str]] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED]
        relative = Path(folder).relative_to(root)
        part = relative.parts[0] if relative.parts else TOP
        found = {(relative / name).as_posix() for name in names if name.endswith(".py")}
        if found:
            parts.setdefault(part, set()).update(found)
    return parts


def divide(parts: Mapping[str, set[str]], agents: int) -> list[Agent]:
    """Give each part to the agent that has the fewest files so far, the largest part first."""
    shares: list[list[str]] = [[] for _ in range(min(agents, len(parts)))]
    for part in sorted(parts, key=lambda name: (-len(parts[name]), name)):
        min(shares, key=lambda share: sum(len(parts[name]) for name in share)).append(part)
    return [
        Agent(f"agent {number}", sorted(share), frozenset[str]().union(*(parts[name] for name in share)))
        for number, share in enumerate(shares, 1)
    ]


def compare(agent: Agent, values: Mapping[str, Any]) -> Verdict:
    """Compare the files in an agent's state with those of the walk."""
    read = Counter(result["file"] for result in values["audited"])
    return Verdict(
        missing=sorted(agent.files - read.keys()),
        twice=sorted(file for file, times in read.items() if times > 1),
        unexpected=sorted(read.keys() - agent.files),
    )


def recovery(agent: Agent, history: Sequence[Mapping[str, Any]]) -> Recovery:
    """Check that a history (newest first) has each step once and goes on from the checkpoint before the kill."""
    states = list(reversed(history))
    steps = [state["metadata"]["step"] for state in states]
    problems = []
    if steps != list(range(steps[0], steps[0] + len(steps))) or steps[0] > 0:
        problems.append(f"the steps are not one line: {steps}")
    if agent.waiting_at_kill:
        return Recovery(problems=problems)
    after = next((state for state in states if _parent(state) == agent.kill_checkpoint), None)
    if after is None:
        problems.append(f"no state follows checkpoint {agent.kill_checkpoint}")
        return Recovery(problems=problems)
    if after["metadata"]["step"] != agent.kill_step + 1:
        problems.append(f"step {after['metadata']['step']} follows step {agent.kill_step}")
    return Recovery(after["metadata"]["step"], datetime.fromisoformat(after["created_at"]), problems)


def early_finding(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """A finding of the first half of an agent's files that its log names on its own: not a low one."""
    early = {result["file"] for result in values["audited"][: len(values["audited"]) // 2]}
    for finding in values["findings"]:
        if finding["severity"] != "low" and finding["file"] in early:
            return dict(finding)
    return None


def _parent(state: Mapping[str, Any]) -> str | None:
    parent = state.get("parent_checkpoint") or {}
    checkpoint = parent.get("checkpoint_id")
    return None if checkpoint is None else str(checkpoint)
