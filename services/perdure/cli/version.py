"""``perdure version`` and ``perdure --version``.

Scripts ask for the version and shells show it, so ``perdure.cli.__main__`` answers both before it imports Typer, which costs a
multiple of everything else here; the commands themselves are for ``--json``, ``--help`` and completion. Hence no import but the
standard library's at the top of this module.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as installed_version

PARTS = ("perdure", "langgraph", "langgraph-checkpoint", "confluent-kafka", "motor", "opensearch-py", "faust-streaming")


def own() -> str:
    """What ``perdure --version`` prints."""
    return f"perdure {installed_version('perdure')}"


def every() -> str:
    """What ``perdure version`` prints."""
    return "\n".join(f"{name} {installed_version(name)}" for name in PARTS)


QUICK: dict[tuple[str, ...], Callable[[], str]] = {("--version",): own, ("version",): every}
"""Arguments that are answered with a text and nothing else."""
