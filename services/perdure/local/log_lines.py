"""Lines of logs: as JSON, and for people.

Contract: the services write one JSON object a line, the servers and what a node prints are plain text. A line for people has the
time of this machine, the level, the event, the fields that matter, and below it what has several lines, a traceback for one.
What is in a log cannot control the terminal: control characters are written out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rich.text import Text

from perdure.chassis import json
from perdure.chassis.clock import now

SOURCE_WIDTH: Final = len("agent_step")
LEVEL_STYLES: Final = {"debug": "dim", "info": "green", "warning": "yellow", "error": "red", "critical": "bold red"}
UNSHOWN: Final = frozenset({"timestamp", "level", "event", "service", "logger", "run_id", "attempt"})
"""Fields that people see elsewhere in the line, or find with ``--json``."""
LAST: Final = ("graph", "node", "thread_id")
"""Where a record was made, after what it says."""
VALUE_LIMIT: Final = 300
"""Characters of one field's value."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records are shown: those of a thread, of a run, or of both."""

    thread_id: str | None = None
    run_id: str | None = None

    def __bool__(self) -> bool:
        return self.text is not None

    @property
    def text(self) -> str | None:
        """What every wanted line holds."""
        return self.run_id or self.thread_id

    @property
    def unshown(self) -> frozenset[str]:
        """Fields that are the same in every wanted record."""
        return frozenset({"thread_id"}) if self else frozenset()

    def lines(self, lines: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Of lines with their sources, those that are wanted."""
        return ((source, line) for source, line in lines if not self or self._is_wanted(record_of(line) or {}))

    def _is_wanted(self, record: Record) -> bool:
        return all(
            wanted is None or record.get(name) == wanted
            for name, wanted in (("thread_id", self.thread_id), ("run_id", self.run_id))
        )


def record_of(line: str) -> Record | None:
    """The record that a line holds; ``None`` for plain text."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None


def made_at(line: str) -> str:
    """A key that sorts records by time."""
    return str((record_of(line) or {}).get("timestamp", "")).rstrip("Z")


def as_value(source: str, line: str) -> Record:
    """A line as JSON: ``{"source", "record"}``, or ``{"source", "line"}`` for plain text."""
    record = record_of(line)
    return {"source": source, "line": line} if record is None else {"source": source, "record": record}


def for_people(source: str, line: str, unshown: frozenset[str] = frozenset()) -> Text:
    """A line for people; ``source`` is in front of each of its lines, if it is not empty."""
    record = record_of(line)
    shown = [Text(_visible(line))] if record is None else _lines_of(record, unshown | UNSHOWN)
    if source:
        shown = [Text.assemble((f"{source:<{SOURCE_WIDTH}} | ", "dim"), one) for one in shown]
    return Text("\n").join(shown)


def _lines_of(record: Record, unshown: frozenset[str]) -> list[Text]:
    level = str(record.get("level", ""))
    event, *more = _visible(record["event"]).split("\n")
    head = Text.assemble(
        (_clock(record.get("timestamp")), "dim"),
        " ",
        (f"{level:<7}", LEVEL_STYLES.get(level, "")),
        " ",
        (event, "bold"),
    )
    blocks = [*more]
    ordered = [name for name in record if name not in LAST] + [name for name in LAST if name in record]
    for name in ordered:
        value = record[name]
        if name in unshown or value in (None, "", [], {}):
            continue
        if isinstance(value, str) and "\n" in value:
            blocks.extend(_visible(value).rstrip("\n").split("\n"))
        else:
            head.append("  ").append(f"{name}=", style="dim").append(_short(value))
    return [head, *(Text(f"    {one}", style=LEVEL_STYLES["error"] if level == "error" else "") for one in blocks)]


def _clock(timestamp: Any) -> str:
    """``12:34:56.789`` on this machine's clock, with the date unless it is today."""
    try:
        at = datetime.fromisoformat(str(timestamp)).astimezone()
    except ValueError:
        return _visible(timestamp)
    clock = f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"
    return clock if at.date() == now().astimezone().date() else f"{at:%Y-%m-%d} {clock}"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        text = ",".join(f"{name}:{_short(one)}" for name, one in value.items())
    elif isinstance(value, list):
        text = ",".join(map(_short, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value).decode()
    text = _visible(text)
    return text if len(text) <= VALUE_LIMIT else f"{text[:VALUE_LIMIT]}..."


def _visible(value: Any) -> str:
    """Text in which characters that cannot be seen are written out, line ends and tabs excepted."""
    text = str(value)
    return text if text.isprintable() else "".join(map(_seen, text))


def _seen(character: str) -> str:
    hidden = character not in "\n\t" and unicodedata.category(character) in {"Cc", "Cf", "Cs"}
    return f"\\u{{{ord(character):x}}}" if hidden else character
