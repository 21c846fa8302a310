"""Decides, before LangGraph is imported, which types a stored value may bring back to life. Takes effect when it is imported.

Contract: agent-step reads checkpoints with LangGraph's strict rule: only LangGraph's own safe types, the types that a graph's
schemas name, and those of ``PERDURE_ALLOWED_TYPES`` are constructed; anything else stays plain data. Without it, whoever can
write to the database has any importable function called in the worker. ``PERDURE_STRICT_TYPES=false`` switches it off, and a
``LANGGRAPH_STRICT_MSGPACK`` that is set already is left as it is.

LangGraph reads its variable once, at its import, so this module must come first. In another process it does nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

VARIABLE = "LANGGRAPH_STRICT_MSGPACK"
OFF = frozenset({"0", "false", "no", "off", "f", "n"})


def _is_agent_step() -> bool:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "perdure.agent_step.__main__"


if _is_agent_step() and os.environ.get("PERDURE_STRICT_TYPES", "").strip().lower() not in OFF:
    os.environ.setdefault(VARIABLE, "true")


def type_keys(names: Iterable[str]) -> list[tuple[str, str]]:
    """``module:Class`` names as LangGraph's allow-list has them.

    Raises:
        ValueError: one has another form.

    """
    found = []
    for name in names:
        module, separator, kind = name.partition(":")
        if not module or not separator or not kind:
            raise ValueError(f'{name!r} must have the form "module:Class"')
        found.append((module, kind))
    return found
