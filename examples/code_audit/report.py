"""The report of an audit as Markdown, and how it is written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from constructs import FileResult, Finding

SEVERITIES = ("high", "medium", "low")


def summary(audited: Sequence[FileResult], findings: Sequence[Finding]) -> dict[str, object]:
    """Counts for a person who must decide: files, lines, unreadable files, findings by severity and by construct."""
    by_severity = Counter(finding["severity"] for finding in findings)
    return {
        "files": len(audited),
        "lines": sum(result["lines"] for result in audited),
        "unreadable": sum(bool(result["error"]) for result in audited),
        "findings": len(findings),
        "by_severity": {severity: by_severity[severity] for severity in SEVERITIES},
        "by_construct": dict(Counter(finding["construct"] for finding in findings).most_common()),
    }


def render(title: str, audited: Sequence[FileResult], findings: Sequence[Finding]) -> str:
    """The whole report: counts, then every finding by severity and file, then the files that were not parsed."""
    counts = Counter(finding["severity"] for finding in findings)
    parts = [
        f"# Code audit: {title}",
        "",
        f"{len(audited)} files, {sum(result['lines'] for result in audited)} lines, {len(findings)} findings: "
        + ", ".join(f"{counts[severity]} {severity}" for severity in SEVERITIES)
        + ".",
        "",
        "| construct | severity | findings |",
        "|---|---|---|",
        *_construct_rows(findings),
    ]
    for severity in SEVERITIES:
        chosen = sorted((f for f in findings if f["severity"] == severity), key=lambda f: (f["file"], f["line"]))
        if chosen:
            parts += ["", f"## {severity.capitalize()}", ""]
            parts += [f"- `{f['file']}:{f['line']}` {f['construct']}: `{_code(f['snippet'])}`" for f in chosen]
    broken = [result for result in audited if result["error"]]
    if broken:
        parts += ["", "## Not parsed", "", *(f"- `{result['file']}`: {result['error']}" for result in broken)]
    return "\n".join(parts) + "\n"


def write(folder: Path, name: str, text: str) -> Path:
    """Write ``folder/name`` as a whole or not at all; writing it again changes nothing.

    :raises OSError: the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    partial = folder / f".{name}.{os.getpid()}"
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
    return target


def _construct_rows(findings: Sequence[Finding]) -> list[str]:
    counted = Counter((SEVERITIES.index(f["severity"]), f["construct"]) for f in findings)
    return [f"| {name} | {SEVERITIES[rank]} | {count} |" for (rank, name), count in sorted(counted.items())]


def _code(snippet: str) -> str:
    return snippet.replace("`", "'")
