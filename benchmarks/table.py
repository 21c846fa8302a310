"""A Markdown table of benchmark results: ``python benchmarks/table.py [FILE...]`` (default ``benchmarks/out/smoke.jsonl``).

Runs with the same settings are one row: the median of each number.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

NUMBERS = (
    "steps_per_s",
    "cpu_s_per_1000_steps",
    "ack_p50_ms",
    "ack_p99_ms",
    "e2e_p50_ms",
    "e2e_p99_ms",
    "searchable_p50_ms",
    "searchable_p99_ms",
    "bytes_per_step",
)


def main(files: list[str]) -> None:
    """Print the tables."""
    paths = [Path(file) for file in files] or [Path(__file__).resolve().parent / "out" / "smoke.jsonl"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            run = json.loads(line)
            if not run["errors"] and not run["detail"]["profiled"]:
                key = (
                    run["workload"],
                    run["state_bytes"],
                    run["agents"],
                    run["detail"]["workers"],
                    run["detail"]["jvm"],
                )
                groups.setdefault(key, []).append(run)
    heads = ["workload", "state bytes", "agents", "workers", "JVM", "runs", *NUMBERS, "other cores busy"]
    print_table(heads, [[*key, len(runs), *numbers(runs)] for key, runs in sorted(groups.items())])
    print("\nCPU seconds per 1,000 steps by process:\n")
    names = sorted({name for runs in groups.values() for run in runs for name in run["cpu_by_process"]})
    rows = [[key[0], key[1], key[3], key[4], *by_process(runs, names)] for key, runs in sorted(groups.items())]
    print_table(["workload", "state bytes", "workers", "JVM", *names, "(load generator)"], rows)


def numbers(runs: list[dict[str, Any]]) -> list[Any]:
    """The median of each number, and of what else ran on the machine."""
    found = [middle([run[name] for run in runs]) for name in NUMBERS]
    return [*found, middle([run["detail"]["other_cpu_cores"] for run in runs])]


def by_process(runs: list[dict[str, Any]], names: list[str]) -> list[Any]:
    """The median of each process, and of the load generator."""
    found = [middle([run["cpu_by_process"].get(name, 0.0) for run in runs]) for name in names]
    return [*found, middle([run["detail"]["cpu_s_per_1000_steps_of_load_generator"] for run in runs])]


def middle(values: list[float | None]) -> float | None:
    """The median of those that are there, to three digits after the point at most."""
    known = [value for value in values if value is not None]
    return round(median(known), 3) if known else None


def print_table(heads: list[str], rows: list[list[Any]]) -> None:
    """Write Markdown."""
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(shown(cell) for cell in row) + " |")


def shown(cell: Any) -> str:
    """One cell."""
    if cell is None:
        return "–"
    return f"{cell:g}" if isinstance(cell, float) else str(cell)


if __name__ == "__main__":
    main(sys.argv[1:])
