"""``docs/compatibility.md`` from the probes that passed: every operation and parameter as Y, P or a dash."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.compatibility.probe import Probe
from tests.compatibility.surface import PLACES, REFERENCE, REFERENCE_VERSION, Operation, operations

YES, PARTLY, NO = "Y", "P", "–"
TITLES: Final = {
    "threads": "Threads",
    "states": "States",
    "runs": "Runs",
    "crons": "Crons",
    "assistants": "Assistants",
    "store": "Store",
    "protocols": "Protocols",
    "system": "System",
}
HEADERS: Final = {"answer_header": "answer's header", "event": "event"}
INTRODUCTION: Final = f"""# Compatibility with the LangGraph Agent Server

What of the Agent Server's HTTP API ({REFERENCE} {REFERENCE_VERSION}: 64 operations and their parameters) works here. **No mark is
written by hand**: `make compatibility` runs the probes of `tests/compatibility/` against the whole system and writes this page; a
test fails when the page says something else.

* **{YES}**: a probe used it over the wire, most with the unmodified `langgraph_sdk`, and saw its effect.
* **{PARTLY}**: a probe saw that it works in part, or is accepted without an effect; the reason is below the operation. An operation
  is {PARTLY} while one of its parameters is not {YES}.
* **{NO}**: no probe shows that it works.

`a.b` is a field of a field, `a=v` a value that means something of its own. What the API has beyond this is in
[http-api.md](http-api.md).
"""
DIFFERENCES: Final = f"""## Differences and their reasons

Where Perdure answers otherwise, and why. For each there is a probe that passes here and, in `make compatibility-reference`, fails
against `langgraph dev` with {REFERENCE} {REFERENCE_VERSION}; the other probes pass there as well,
but those for a {PARTLY} or {NO}, and a few that it cannot answer with its memory as database.
"""


@dataclass
class Marks:
    """What the probes showed of one operation."""

    works: set[str] = field(default_factory=set)
    partly: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def of(self, parameter: str) -> str:
        if parameter in self.partly:
            return PARTLY
        return YES if parameter in self.works else NO


def marks_of(probes: Iterable[Probe], passed: Mapping[str, bool]) -> dict[str, Marks]:
    """By operation, what the probes that passed claim; the least of what several claim of one parameter."""
    marks: dict[str, Marks] = defaultdict(Marks)
    paths = {one.name: {name for name in one.parameters if name.startswith("path.")} for one in operations()}
    for one in (one for probe in probes if passed[probe.name] for one in probe.claims):
        of = marks[one.operation]
        of.works |= one.works | paths[one.operation]
        of.partly |= one.partly
        of.refused |= one.refused
    for of in marks.values():
        of.works -= {*of.partly, *of.refused}
        of.partly = {name: why for name, why in of.partly.items() if name not in of.refused}
    return marks


def render(probes: Iterable[Probe], passed: Mapping[str, bool]) -> str:
    """The whole page."""
    probes = list(probes)
    marks = marks_of(probes, passed)
    parts = [INTRODUCTION, _totals(marks), _differences(probes, passed)]
    for section, title in TITLES.items():
        parts.append(f"## {title}\n")
        parts += [_operation(one, marks.get(one.name, Marks())) for one in operations() if one.section == section]
    return "\n".join(parts)


def _mark(operation: Operation, marks: Marks) -> str:
    if not marks.works and not marks.partly:
        return NO
    return YES if all(marks.of(name) == YES for name in operation.parameters) else PARTLY


def _totals(marks: Mapping[str, Marks]) -> str:
    of_operations: Counter[tuple[str, str]] = Counter()
    of_parameters: Counter[tuple[str, str]] = Counter()
    for one in operations():
        found = marks.get(one.name, Marks())
        of_operations[one.section, _mark(one, found)] += 1
        of_parameters.update((one.section, found.of(name)) for name in one.parameters)
    rows = [
        f"| | operations {YES} | {PARTLY} | {NO} | parameters {YES} | {PARTLY} | {NO} |",
        "|---|---|---|---|---|---|---|",
    ]
    for section, title in [*TITLES.items(), ("", "all")]:
        numbers = [
            str(sum(count for (of, kind), count in counts.items() if kind == mark and section in {"", of}))
            for counts in (of_operations, of_parameters)
            for mark in (YES, PARTLY, NO)
        ]
        rows.append(f"| {title} | {' | '.join(numbers)} |")
    return "\n".join(rows) + "\n"


def _differences(probes: Iterable[Probe], passed: Mapping[str, bool]) -> str:
    return DIFFERENCES + "\n" + "".join(f"* {one.differs}\n" for one in probes if one.differs and passed[one.name])


def _operation(operation: Operation, marks: Marks) -> str:
    lines = [f"### {operation.name} {_mark(operation, marks)}\n"]
    rows = []
    for place in PLACES:
        named = [name for name in operation.parameters if name.startswith(f"{place}.")]
        if named:
            cells = [_names(name for name in named if marks.of(name) == mark) for mark in (YES, PARTLY, NO)]
            rows.append(f"| {HEADERS.get(place, place)} | {' | '.join(cells)} |")
    if rows:
        lines += [f"| | {YES} | {PARTLY} | {NO} |", "|---|---|---|---|", *rows, ""]
    for why in (marks.partly, marks.refused):
        lines += [f"* {_names(names)}: {reason}" for reason, names in _by_reason(operation, why).items()]
    if marks.partly or marks.refused:
        lines.append("")
    return "\n".join(lines)


def _by_reason(operation: Operation, why: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in operation.parameters:
        if name in why:
            found.setdefault(why[name], []).append(name)
    return found


def _names(parameters: Iterable[str]) -> str:
    return ", ".join(f"`{name.partition('.')[2]}`" for name in parameters)
