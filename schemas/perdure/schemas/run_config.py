"""What a client may set in a run's LangGraph configuration. Pure; the gateway refuses the rest, and workers leave it out.

Contract: of ``config`` only :data:`FIELDS`; of ``config.configurable`` no key that LangGraph, its Agent Server or Perdure sets
itself. Such a key would switch off checkpoints, name another user, or go on from another place than the run does. ``null`` counts
as absent. ``thread_id``, ``run_id``, ``graph_id`` and ``assistant_id`` may be named, as clients do; the run's own replace them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FIELDS = frozenset({"tags", "recursion_limit", "configurable", "run_name", "max_concurrency", "metadata"})
RESERVED = ("__", "langgraph_", "checkpoint_", "perdure_")
"""Beginnings of keys of ``configurable`` that are not the client's."""


def is_reserved(key: str) -> bool:
    """Whether a key of ``configurable`` is set by the system itself."""
    return key.startswith(RESERVED)


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a configuration, a sentence each."""
    for name, value in config.items():
        if name not in FIELDS and value is not None:
            yield f"{name!r} cannot be set; only {', '.join(sorted(FIELDS))} can"
    for key, value in (config.get("configurable") or {}).items():
        if is_reserved(key) and value not in (None, ""):
            hint = (
                " (name a checkpoint in the request's own checkpoint or checkpoint_id)" if "checkpoint_" in key else ""
            )
            yield f"configurable.{key} is reserved: keys that begin with {', '.join(RESERVED)} are set by the system{hint}"


def allowed(config: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """A stored configuration without what a client may not set, and what was left out."""
    given = config or {}
    kept = {name: value for name, value in given.items() if name in FIELDS and value is not None}
    configurable = kept.get("configurable") or {}
    dropped = [name for name, value in given.items() if name not in FIELDS and value is not None]
    dropped += [f"configurable.{key}" for key in configurable if is_reserved(key)]
    if "configurable" in kept:
        kept["configurable"] = {key: value for key, value in configurable.items() if not is_reserved(key)}
    return kept, dropped
