"""Single values of a thread by path: ``values.messages[-1].content``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[(-?\d+)\]")


def extract(thread: Mapping[str, Any], path: str) -> Any:
    """The value at a path in a thread as clients see it; ``None`` where the path leads nowhere.

    A path is keys joined by dots and list positions in brackets; a negative position counts from the end.
    """
    current: Any = thread
    end = 0
    for step in STEP.finditer(path):
        if step.start() != end:
            return None
        end = step.end()
        key, index = step.groups()
        if key is not None:
            current = current.get(key) if isinstance(current, Mapping) else None
        else:
            position = int(index)
            inside = isinstance(current, list | tuple) and -len(current) <= position < len(current)
            current = current[position] if inside else None
        if current is None:
            return None
    return current if end == len(path) else None
