"""Values that people type: JSON from the command line, a file or stdin; points in time.

Raises ``typer.BadParameter`` (exit status 2) with what is wrong and an example.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import typer

from perdure.chassis import clock, json

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def json_argument(text: str, option: str) -> Any:
    """JSON given as text, ``@file``, or ``-`` for stdin."""
    try:
        if text == "-":
            source, data = "stdin", sys.stdin.buffer.read()
        elif text.startswith("@"):
            source, data = text[1:], Path(text[1:]).read_bytes()
        else:
            source, data = "the argument", text.encode()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {text[1:]}: {error.strerror}", param_hint=option) from error
    try:
        return json.loads(data)
    except ValueError as error:
        raise typer.BadParameter(
            f'{source} is not JSON: {error}. Example: \'{{"topic": "whales"}}\', @input.json, or - for stdin',
            param_hint=option,
        ) from error


def json_or_text(text: str, option: str) -> Any:
    """Like :func:`json_argument`, but text that is not JSON is taken as it is: ``perdure resume THREAD yes``."""
    if text == "-" or text.startswith("@"):
        return json_argument(text, option)
    try:
        return json.loads(text)
    except ValueError:
        return text


def ahead(text: str | None, option: str) -> datetime | None:
    """A point in time to come: ``90d``, ``12h`` from now, or ISO 8601 (without an offset: local time)."""
    if text is None:
        return None
    if match := _AGO.fullmatch(text.strip().lower()):
        return clock.now() + timedelta(**{_UNITS[match[2]]: float(match[1])})
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no point in time. Examples: 90d, 12h, 2027-01-01, 2027-01-01T08:00:00Z", param_hint=option
        ) from error


def moment(text: str | None, option: str, now: datetime | None = None) -> str | None:
    """A point in time as ISO 8601 in UTC.

    Takes ISO 8601 (without an offset: local time), ``90m``, ``2h``, ``3d`` (ago), ``now``, ``today`` and ``yesterday``
    (midnight, local time).
    """
    if text is None:
        return None
    now = now or clock.now()
    word = text.strip().lower()
    if word == "now":
        found = now
    elif word in ("today", "yesterday"):
        midnight = now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        found = midnight - timedelta(days=1 if word == "yesterday" else 0)
    elif match := _AGO.fullmatch(word):
        found = now - timedelta(**{_UNITS[match[2]]: float(match[1])})
    else:
        try:
            found = datetime.fromisoformat(text)
        except ValueError as error:
            raise typer.BadParameter(
                f"{text!r} is no point in time. Examples: 2026-11-23T08:00:00Z, 2026-11-23, 90m, 2h, 3d, yesterday",
                param_hint=option,
            ) from error
    return found.astimezone(UTC).isoformat()
