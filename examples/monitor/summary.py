"""What a week of checks comes to. A check is one character: ``.`` well, ``x`` not."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import TypedDict

WELL, ILL = ".", "x"
DAY_HOURS = 24


class Summary(TypedDict):
    """Numbers of the report."""

    checks: int
    failed: int
    availability_percent: float
    outages: int
    longest_outage_hours: int
    longest_outage_from: int | None
    """The hour in which the longest one began, from 1."""


def summarise(strip: str) -> Summary:
    """Numbers of all checks."""
    outages: list[tuple[int, int]] = []
    hour = 1
    for state, run in groupby(strip):
        length = len([*run])
        if state == ILL:
            outages.append((length, hour))
        hour += length
    failed = strip.count(ILL)
    longest = max(outages, key=lambda outage: outage[0], default=(0, None))
    return {
        "checks": len(strip),
        "failed": failed,
        "availability_percent": round(100 * (1 - failed / len(strip)), 2) if strip else 0.0,
        "outages": len(outages),
        "longest_outage_hours": longest[0],
        "longest_outage_from": longest[1],
    }


def render(target: str, strip: str, reasons: Mapping[str, int]) -> str:
    """The report, as Markdown: one row a day, one character an hour."""
    found = summarise(strip)
    began = f", from hour {found['longest_outage_from']}" if found["longest_outage_from"] else ""
    outages = f"{found['outages']} outages; the longest took {found['longest_outage_hours']} hours{began}."
    lines = [
        f"# {target}",
        "",
        f"{found['checks']} checks, {found['availability_percent']:.2f} % well. {outages}",
        "",
        "| day | hours | well |",
        "|---|---|---|",
    ]
    for start in range(0, len(strip), DAY_HOURS):
        day = strip[start : start + DAY_HOURS]
        lines.append(f"| {start // DAY_HOURS + 1} | `{day}` | {100 * day.count(WELL) / len(day):.1f} % |")
    if reasons:
        lines += ["", "| what was wrong | times |", "|---|---|"]
        lines += [f"| {reason} | {times} |" for reason, times in sorted(reasons.items(), key=lambda r: (-r[1], r[0]))]
    return "\n".join(lines) + "\n"
