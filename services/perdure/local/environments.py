"""Compare a running service's environment with the one that it would get if it were started from this shell now.

Contract: compares by name; values are never returned or shown. Looked at are Perdure's own variables, those of tracing and proxies,
and whatever is named like a credential: the variables that change what services and nodes do. Not looked at: a shell's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from perdure.local.resources import STACK_VARIABLE

_RELEVANT: Final = re.compile(
    r"^(PERDURE|LANGSMITH|LANGCHAIN|LANGGRAPH|OTEL|AWS|OPENAI|ANTHROPIC)_|_(API_KEY|KEY|TOKEN|SECRET|PASSWORD|PROXY)$|^PYTHONPATH$",
    re.IGNORECASE,
)
_CHOSEN: Final = frozenset({"PERDURE_HEALTH_PORT", "PERDURE_DATA_DIR", STACK_VARIABLE})
"""Of each process by itself, or no concern of a service."""


def differing(running: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Names of the relevant variables that are not the same in both, sorted."""
    names = {name for name in {*running, *wanted} if _RELEVANT.search(name)} - _CHOSEN
    return sorted(name for name in names if running.get(name) != wanted.get(name))


def warning(differences: Mapping[str, list[str]]) -> str | None:
    """What to say about running services, by label, whose environment differs; None if none does."""
    by_names: dict[tuple[str, ...], list[str]] = {}
    for label, names in differences.items():
        if names:
            by_names.setdefault(tuple(names), []).append(label)
    if not by_names:
        return None
    lines = [f"  {', '.join(labels)}: {', '.join(names)}" for names, labels in by_names.items()]
    return "\n".join(
        [
            "warning: services that already run were started with another environment than this shell has:",
            *lines,
            "They keep theirs. To give all of them this shell's: `perdure down`, then `perdure up`.",
        ]
    )
