"""Where a command writes: its result to stdout, everything else to stderr.

Contract: exactly one result per command. With ``--json`` it is one JSON value (or, for lines that go on, one JSON
value a line); without, text and tables for people. rich leaves colours out when the stream is not a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from perdure.chassis import json
from perdure.local.display import ConsoleDisplay
from perdure.local.log_lines import as_value, for_people

PIPE_WIDTH = 1000
STATUS_STYLES = {
    "success": "green",
    "idle": "green",
    "ready": "green",
    "external": "green",
    "pending": "yellow",
    "running": "cyan",
    "busy": "cyan",
    "interrupted": "magenta",
    "paused": "yellow",
    "waiting": "yellow",
    "started": "cyan",
    "succeeded": "green",
    "completed": "green",
    "failed": "red",
    "delivered": "green",
    "dead": "red",
    "disabled": "red",
    "not ready": "yellow",
    "error": "red",
    "timeout": "red",
    "cancelled": "red",
    "ended": "red",
}


class Output:
    """The two streams of one command."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        # What goes into a pipe or a file is not folded to the width of a screen that nobody looks at.
        self._out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
        self._err = Console(stderr=True, soft_wrap=True)

    def display(self) -> ConsoleDisplay:
        """Progress of the local stack, on stderr."""
        return ConsoleDisplay(self._err)

    def note(self, text: str) -> None:
        """Something to know that is not the result."""
        self._err.print(text, markup=False, highlight=False)

    def result(self, value: Any, *shown: RenderableType) -> None:
        """The result: ``value`` as JSON, or ``shown`` for people (pretty JSON if nothing is to be shown instead)."""
        if self.as_json:
            sys.stdout.write(json.dumps(value).decode() + "\n")
            sys.stdout.flush()
        elif shown:
            with self._out.capture() as capture:
                for part in shown:
                    self._out.print(part, markup=False, highlight=False)
            # rich fills tables up to their width.
            sys.stdout.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())
        else:
            self._out.print_json(data=value, default=repr)

    def lines(self, lines: Iterable[tuple[str, str]], unshown: frozenset[str] = frozenset()) -> None:
        """Lines of logs as they come: (source, line); fields named in ``unshown`` are left out for people."""
        for source, line in lines:
            self.result(as_value(source, line), for_people(source, line, unshown))


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], empty: str) -> RenderableType:
    """A table, or ``empty`` where there are no rows; ``columns`` maps headings to keys (``a.b`` reaches into them)."""
    if not rows:
        return Text(empty)
    result = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns:
        result.add_column(heading, overflow="fold")
    for row in rows:
        result.add_row(*(cell(dig(row, key), key) for key in columns.values()))
    return result


def fields(value: Mapping[str, Any], keys: Mapping[str, str]) -> RenderableType:
    """One thing as ``name  value`` lines; what is absent or empty is left out."""
    result = Table.grid(padding=(0, 2))
    for heading, key in keys.items():
        found = dig(value, key)
        if found in (None, "", [], {}):
            continue
        if isinstance(found, Mapping) and "message" in found and "traceback" in found:
            result.add_row(Text(heading, style="bold"), failure(found))
            continue
        plain = isinstance(found, str | int | float) or is_names(found)
        shown = cell(found, key) if plain else Text(indented(found))
        result.add_row(Text(heading, style="bold"), shown)
    return result


def failure(error: Mapping[str, Any]) -> Text:
    """Why a run failed: the node and the message, and the traceback below."""
    where = f"at node {error['node']}: " if error.get("node") else ""
    said = (f"{where}{error.get('type', 'error')}: {error['message']}", "red")
    trace = str(error["traceback"] or "").rstrip("\n")
    return Text.assemble(said, f"\n{trace}" if trace else "")


def is_names(value: Any) -> bool:
    """Whether it is a list of texts, which is shown as ``a, b``."""
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def indented(value: Any) -> str:
    """JSON for people."""
    return orjson.dumps(value, default=repr, option=orjson.OPT_INDENT_2).decode()


def dig(value: Any, path: str) -> Any:
    """``a.b`` in nested mappings; None where there is nothing."""
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def cell(value: Any, key: str = "") -> Text:
    """One value as text; states in their colour."""
    if value is None:
        return Text("")
    if isinstance(value, str):
        return Text(value, style=STATUS_STYLES.get(value, "") if key in ("status", "state") else "")
    if is_names(value):
        return Text(", ".join(value))
    return Text(json.dumps(value).decode())
