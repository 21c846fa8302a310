"""The results of a batch of audits: read, proved against the files, and as a table of clauses."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clauses import Clause, check
from sentences import flatten, lines
from texts import read_file

COLUMNS = (
    "item", "title", "jurisdiction", "topic", "kind", "confidence", "line", "end_line", "start", "end", "place", "section",
    "reason", "quote", "path", "sha256", "thread_id",
)  # fmt: skip

Result = dict[str, Any]


class Proof(NamedTuple):
    """What came of comparing the quotes with the files that they were taken from."""

    equal: int
    """Quotes that stand in their file, where they say."""
    wrong: list[str]
    """What is wrong with the others."""
    gone: list[str]
    """Files that are not there any more, or hold another text now."""


def read_results(file: Path) -> list[Result]:
    """What ``perdure batches results`` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is no result; a download that was cut off ends in one.

    """
    found: list[Result] = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):  # of bytes: a text may hold other line ends
        try:
            result = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file} line {number} is not JSON ({error}): download the results again") from error
        if not isinstance(result, dict) or "status" not in result:
            raise ValueError(f"{file} line {number} is no result of a batch: give what perdure batches results wrote")
        if result["status"] == "succeeded" and "assessment" not in (result.get("values") or {}):
            raise ValueError(f"{file} line {number} holds no audit: download with values, of a batch of contract_audit")
        found.append(result)
    return found


def audited(results: Iterable[Result]) -> list[Result]:
    """Those that succeeded."""
    return [result for result in results if result["status"] == "succeeded"]


def distinct(results: Iterable[Result]) -> list[Result]:
    """One for each text, in their order."""
    return [*{result["values"]["sha256"]: result for result in reversed([*results])}.values()][::-1]


def clauses_of(result: Result, *, mentions: bool = True) -> list[Clause]:
    """The clauses of one result, in the order of the text."""
    found = [clause for part in result["values"]["clauses"].values() for clause in part]
    chosen = [clause for clause in found if mentions or clause["confidence"] != "low"]
    return sorted(chosen, key=lambda clause: (clause["start"], clause["topic"]))


def prove(results: Sequence[Result]) -> Proof:
    """Compare every quote with its file, read anew; with the text in the result where it was given with the order."""
    equal, wrong, gone = 0, [], []
    for result in results:
        values = result["values"]
        text = values["text"]
        if values["path"]:
            try:
                text = read_file(values["path"], values["sha256"])["text"]
            except (OSError, ValueError):
                gone.append(values["path"])
                continue
        for clause in clauses_of(result):
            try:
                check(text, clause)
            except ValueError as error:
                wrong.append(f"{values['title']}: {error}")
            else:
                equal += 1
    return Proof(equal, wrong, gone)


def write_table(file: Path, results: Iterable[Result]) -> int:
    """Write a CSV, a row for each clause; how many. Quotes are in one line there.

    Raises:
        OSError: it cannot be written.

    """
    rows = 0
    with file.open("w", encoding="utf-8", newline="") as target:
        table = csv.DictWriter(target, COLUMNS, extrasaction="ignore")
        table.writeheader()
        for row in _rows(results):
            table.writerow(row)
            rows += 1
    return rows


def in_one_line(quote: str) -> str:
    """A quote without line ends and the frame of a comment."""
    return flatten(quote, [*lines(quote, 0, len(quote))]).text


def _rows(results: Iterable[Result]) -> Iterator[dict[str, Any]]:
    for result in results:
        values = result["values"]
        about = {name: values.get(name) or "" for name in ("title", "jurisdiction", "path", "sha256")}
        for clause in clauses_of(result):
            shared = {"item": result["number"], "thread_id": result["thread_id"], **about}
            yield {**clause, **shared, "quote": in_one_line(clause["quote"])}
