"""Make a table and a one-page report from the results of a batch, also while it runs.

::

    perdure batches results BATCH -o results.ndjson
    python examples/contract_audit/overview.py results.ndjson --items contracts.ndjson --csv clauses.csv --report report.md

Every quote is compared with its file before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from page import completeness, render
from results import audited, distinct, prove, read_results, write_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, prove, write; 1 if a quote is not where it says."""
    parser = argparse.ArgumentParser(description="Make a table and a report from the results of a batch of audits.")
    parser.add_argument("results", type=Path, metavar="RESULTS", help="what perdure batches results wrote")
    parser.add_argument("--items", type=Path, help="the orders (NDJSON), to say how complete the results are")
    parser.add_argument("--csv", type=Path, default=Path("clauses.csv"), help="clauses.csv")
    parser.add_argument("--report", type=Path, default=Path("report.md"), help="report.md")
    options = parser.parse_args(arguments)
    try:
        results = read_results(options.results)
        total = _count(options.items) if options.items else None
        audits = audited(results)
        texts, proof = distinct(audits), prove(audits)
        rows = write_table(options.csv, audits)
        options.report.write_text(render(results, audits, texts, proof, total), encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{completeness(results, total)} {options.csv}: {rows:,} clauses. {options.report}: {len(texts):,} texts.")
    for problem in proof.wrong:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if proof.wrong else 0


def _count(items: Path) -> int:
    return sum(bool(line.strip()) for line in items.read_bytes().splitlines())


if __name__ == "__main__":
    sys.exit(main())
