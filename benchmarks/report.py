"""Tables, verdicts and plots from what ``run.py`` wrote, of one run or of several together.

::

    python benchmarks/report.py FILE [FILE ...] [--out FOLDER]

A ratio is ours divided by the peer's, each of one pair of sessions that ran one after the other; shown are the median of the
pairs and, in brackets, the smallest and the largest. A peer is called ahead when the median says so, whatever the spread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import plots
from budgets import BUDGETS
from metrics import METRICS, TITLES, Metric
from plan import OURS

NAMES = {
    OURS: "Perdure",
    "langgraph_postgres": "LangGraph + PostgresSaver",
    "langgraph_mongodb": "LangGraph + MongoDBSaver",
    "dbos": "DBOS",
    "restate": "Restate",
    "temporal": "Temporal",
    "aegra": "Aegra",
    "langgraph_dev": "langgraph dev",
}
Line = dict[str, Any]


class Results:
    """The lines of one run, or of several; a pair is always of one run."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.lines: list[Line] = [
            {"file": place, **json.loads(line)}
            for place, file in enumerate(files)
            for line in file.read_text().splitlines()
        ]
        self.runs: list[Line] = [line["run"] for line in self.lines if "run" in line]

    def workloads(self) -> list[str]:
        """Those that any system ran, in the order of the titles."""
        found = {line["id"] for line in self.lines if "id" in line}
        return [name for name in TITLES if name in found]

    def systems(self) -> list[str]:
        """Those that were asked for, ours first."""
        found = {line["system"] for line in self.lines if "system" in line}
        return [name for name in NAMES if name in found]

    def of(self, workload: str, system: str) -> list[Line]:
        """Every attempt."""
        return [line for line in self.lines if line.get("id") == workload and line["system"] == system]

    def ratios(self, workload: str, system: str, metric: Metric) -> list[float]:
        """Of every pair in which both have the number."""
        ours = {
            (line["file"], line["session"]): line["numbers"] for line in self.of(workload, OURS) if "numbers" in line
        }
        found = []
        for line in self.of(workload, system):
            mine = ours.get((line["file"], line["ours"]), {}).get(metric.key)
            theirs = line.get("numbers", {}).get(metric.key)
            if mine is not None and theirs:
                found.append(mine / theirs)
        return found


def write(files: Sequence[Path], folder: Path) -> None:
    """``report.md`` and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(files)
    text = list(_head(results))
    for workload in results.workloads():
        text += _section(results, workload, folder)
    text += _verdict(results) + _budgets(results) + _abouts(results)
    (folder / "report.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


def _head(results: Results) -> Iterator[str]:
    yield from ("# Results", "")
    for run in results.runs:
        yield f"- {run.get('at')}, commit `{run.get('versions', {}).get('commit')}`: {run.get('machine')}."
    yield ""
    if any(run.get("quick") for run in results.runs):
        yield from ("**A quick run: it shows that the harness works; its numbers mean nothing.**", "")
    yield from ("`benchmarks/README.md` says what the columns mean and what is fair about each comparison.", "")
    for line in results.lines:
        if "not_run" in line:
            yield f"- {NAMES[line['system']]}: not run: {line['not_run']}"
        if "session_failed" in line:
            yield f"- {NAMES[line['system']]}: {line['session_failed']}"
    yield ""


def _section(results: Results, workload: str, folder: Path) -> list[str]:
    lines = [line for system in results.systems() for line in results.of(workload, system)]
    known = {key for line in lines for key, number in line.get("numbers", {}).items() if number is not None}
    metrics = [metric for metric in METRICS[lines[0]["size"]["workload"]] if metric.key in known]
    compared = [metric for metric in metrics if metric.higher is not None]
    heads = [
        "system",
        "runs",
        *(metric.label for metric in metrics),
        *(f"ours / it: {metric.label}" for metric in compared),
    ]
    rows, reasons, bars = list[list[str]](), list[str](), list[tuple[str, list[float]]]()
    for system in results.systems():
        attempts = results.of(workload, system)
        numbers = [line["numbers"] for line in attempts if "numbers" in line]
        reasons += [f"- {NAMES[system]}: – ({why})" for why in dict.fromkeys(_why(line) for line in attempts) if why]
        if not numbers:
            continue
        cells = [_middle([one[metric.key] for one in numbers if one.get(metric.key) is not None]) for metric in metrics]
        ratios = ["" if system == OURS else _spread(results.ratios(workload, system, metric)) for metric in compared]
        rows.append([NAMES[system], str(len(numbers)), *cells, *ratios])
        if compared:
            bars.append((NAMES[system], [one[compared[0].key] for one in numbers]))
    text = [f"## {TITLES[workload]}", "", *_table(heads, rows), "", *reasons, ""]
    if len(bars) > 1:
        (folder / f"{workload}.svg").write_text(plots.bars(f"{workload}: {compared[0].label}", bars))
        text += [f"![{compared[0].label}]({workload}.svg)", ""]
    for name, key, x, y in (
        ("chat", "rate_by_messages", "messages", "steps/s"),
        ("soak", "windows", "seconds", "CPU s / 1,000 steps"),
    ):
        if workload == name and (curves := _curves(results, workload, key)):
            (folder / f"{workload}-curve.svg").write_text(plots.lines(f"{workload}: {y} by {x}", curves))
            text += [f"![{y}]({workload}-curve.svg)", ""]
    return text


def _curves(results: Results, workload: str, key: str) -> list[tuple[str, list[tuple[float, float]]]]:
    """The first run of each system."""
    found = []
    for system in results.systems():
        for line in results.of(workload, system)[:1]:
            points = line.get("numbers", {}).get(key, [])
            pairs = [
                (one["at_s"], one["cpu_s_per_1000"]) if isinstance(one, dict) else (one[0], one[1]) for one in points
            ]
            found += [(NAMES[system], pairs)] if pairs else []
    return found


def _why(line: Line) -> str:
    if "failed" in line:
        return f"failed: {line['failed']}"
    return str(line.get("cannot", ""))


def _verdict(results: Results) -> list[str]:
    """Where a peer is ahead, and where we are, by the medians of the paired ratios."""
    behind, ahead = list[str](), list[str]()
    for workload in results.workloads():
        for system in results.systems():
            if system == OURS or not (attempts := results.of(workload, system)):
                continue
            for metric in METRICS[attempts[0]["size"]["workload"]]:
                ratios = results.ratios(workload, system, metric) if metric.higher is not None else []
                if ratios:
                    better = (median(ratios) > 1) == metric.higher
                    line = f"- {workload}, {metric.label}: {NAMES[system]}, ours / it {_spread(ratios)}"
                    (ahead if better else behind).append(line)
    return [
        "## Where a peer is ahead",
        "",
        *(behind or ["Nowhere in this run."]),
        "",
        "## Where Perdure is ahead",
        "",
        *ahead,
        "",
    ]


def _budgets(results: Results) -> list[str]:
    """Those that this run says something about."""
    rows = []
    for budget in BUDGETS:
        metric = Metric(budget.metric, budget.metric)
        if budget.peer:
            values = results.ratios(budget.workload, budget.peer, metric)
        else:
            numbers = [line.get("numbers", {}).get(budget.metric) for line in results.of(budget.workload, OURS)]
            values = [number for number in numbers if number is not None]
        if values:
            rows.append([budget.words, _plain(median(values)), "met" if budget.met(median(values)) else "**missed**"])
    return ["## Budgets", "", *_table(["budget", "measured (a ratio where a peer is named)", ""], rows), ""]


def _abouts(results: Results) -> list[str]:
    text = ["## Versions and settings", ""]
    for system in results.systems():
        about = next(
            (line["about"] for line in results.lines if line.get("system") == system and "about" in line), None
        )
        if about:
            text.append(f"- **{NAMES[system]}**: " + "; ".join(f"{key}: {value}" for key, value in about.items()))
    return text


def _middle(values: Sequence[float]) -> str:
    return _plain(median(values)) if values else "–"


def _spread(ratios: Sequence[float]) -> str:
    if not ratios:
        return "–"
    return f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def _plain(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    yield from ("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="bench.jsonl of a run")
    parser.add_argument("--out", type=Path, help="the folder of the first file by default")
    options = parser.parse_args()
    write(options.files, options.out or options.files[0].parent)
