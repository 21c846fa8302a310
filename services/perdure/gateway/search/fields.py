"""The fields of the search language, and the OpenSearch query of a tree.

Contract: :func:`query_of` is pure. It names every mistake of meaning (a field that is not there, a value that cannot be) with its
position. What it makes is put beside the tenant's filter by ``perdure.gateway.search.query``: a tree can only narrow that down,
because no field reaches ``tenant`` and no text is interpreted by OpenSearch.

``node`` matches the node that ran, that runs next (where a waiting or stuck thread stands), or that failed. Times are UTC;
``since`` is included, ``until`` is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from typing import Any, Final

from perdure.gateway.search.language import And, Field, Node, Not, Or, QuerySyntaxError, Text, Value
from perdure.schemas.thread_ids import both_ids

Clause = dict[str, Any]

STATUSES: Final = ("running", "interrupted", "success", "error", "timeout", "cancelled", "stuck")
METADATA: Final = "metadata."
TEXT_FIELDS: Final = {
    "text": "text",
    "error.message": "error",
    "wait.text": "wait",
    "stuck.reason": "stuck",
    "notice.text": "notice",
}
"""Full text in the index, and what clients call it."""
NODE_FIELDS: Final = ("nodes", "next", "error.node")
KEYWORDS: Final[dict[str, tuple[str, ...]]] = {
    "node": NODE_FIELDS,
    "status": ("status",),
    "graph": ("graph",),
    "version": ("graph_version",),
    "thread": ("thread_id",),
    "thread_id": ("thread_id",),
    "run": ("run_id",),
    "run_id": ("run_id",),
    "code": ("stuck.code",),
    "event": ("event",),
    "channel": ("channels",),
    "checkpoint": ("checkpoint_id",),
    "error.type": ("error.type",),
}
TEXTS: Final = {called: path for path, called in TEXT_FIELDS.items()}
NUMBERS: Final = {"step": "step", "seq": "seq", "epoch": "epoch", "attempts": "notice.attempts"}
DURATIONS: Final = {"duration": "duration_ms"}
TIMES: Final = {"at": "occurred_at", "expected": "expected_by"}
BOUNDS: Final = {
    "since": ("occurred_at", "gte"),
    "until": ("occurred_at", "lt"),
    "expected_before": ("expected_by", "lt"),
}
NAMES: Final = (*KEYWORDS, *TEXTS, *NUMBERS, *DURATIONS, *TIMES, *BOUNDS, "scope", "metadata.<key>")

MAX_EXPANSIONS: Final = 1_000
_COMPARISONS: Final = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_AGO: Final = re.compile(r"(?:now-)?(\d{1,6})(s|m|h|d|w)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NUMBER: Final = re.compile(r"-?\d{1,18}", re.ASCII)
_DURATION: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h|d)?", re.ASCII)
_MS: Final = {"ms": 1.0, "s": 1_000.0, "m": 60_000.0, "h": 3_600_000.0, "d": 86_400_000.0}


def query_of(node: Node, now: datetime) -> Clause:
    """The clause of a tree.

    Raises:
        QuerySyntaxError: a field is not there, or a value of it cannot be.

    """
    match node:
        case Text():
            return _words(node.text, node.prefix, tuple(TEXT_FIELDS))
        case Not():
            return {"bool": {"must_not": [query_of(node.operand, now)]}}
        case And():
            return {"bool": {"filter": [query_of(one, now) for one in node.operands]}}
        case Or():
            return _any([query_of(one, now) for one in node.operands])
        case Field():
            return _field(node, now)


def of_tenant(node: Node, tenant: str) -> Node:
    """The tree with the stored ids of the threads that it names (ADR 41)."""
    match node:
        case Not():
            return Not(of_tenant(node.operand, tenant))
        case And() | Or():
            return replace(node, operands=tuple(of_tenant(one, tenant) for one in node.operands))
        case Field(name="thread" | "thread_id"):
            values = (replace(one, text=text) for one in node.values for text in both_ids(tenant, one.text))
            return replace(node, values=tuple(values))
    return node


def node_is(names: Sequence[str]) -> Clause:
    """One of these nodes ran, runs next or failed."""
    return _any([{"terms": {path: list(names)}} for path in NODE_FIELDS])


def has_words(node: Node | None) -> bool:
    """Whether the tree asks for full text, of which there may be highlights."""
    match node:
        case Text():
            return True
        case Field():
            return node.name in TEXTS
        case Not():
            return False
        case And() | Or():
            return any(map(has_words, node.operands))
    return False


def moment(value: str, now: datetime) -> datetime:
    """An instant: ISO 8601 (UTC if it says nothing else), ``now``, ``today``, ``yesterday``, ``now-2h`` or ``2h``.

    Raises:
        ValueError: it is none of these; the message says what would be right.

    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if value in named:
        return named[value]
    try:
        if match := _AGO.fullmatch(value):
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        found = datetime.fromisoformat(value.replace(" ", "+") if "T" in value else value)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        allowed = "an ISO 8601 time, now, today, yesterday, or a time ago such as now-2h (s, m, h, d, w)"
        raise ValueError(f"must be {allowed}, not {value!r}") from error


def _field(node: Field, now: datetime) -> Clause:
    name = node.name
    if name in TIMES:
        return _any([_time(node, TIMES[name], value, now) for value in node.values])
    if name in NUMBERS:
        return _any([_compared(node, value, _Scale(NUMBERS[name], _number)) for value in node.values])
    if name in DURATIONS:
        return _any([_compared(node, value, _Scale(DURATIONS[name], _duration)) for value in node.values])
    if not (name in KEYWORDS or name in TEXTS or name in BOUNDS or name.startswith(METADATA)):
        raise QuerySyntaxError(node.at, _unknown(name))
    if node.operator != ":":
        raise QuerySyntaxError(node.at, f"{name} takes no {node.operator}; write {name}:value")
    if name in BOUNDS:
        path, bound = BOUNDS[name]
        if len(node.values) > 1:
            raise QuerySyntaxError(node.values[1].at, f"{name} takes one time")
        (value,) = node.values
        return {"range": {path: {bound: _checked(value, lambda text: moment(text, now)).isoformat()}}}
    if name in TEXTS:
        return _any([_text(TEXTS[name], value) for value in node.values])
    if name == "status":
        _check_statuses(node.values)
    return _terms(KEYWORDS.get(name, (name,)), node.values)


def _unknown(name: str) -> str:
    if name == "scope":
        return "scope holds for the whole query: it cannot be negated or be in parentheses or beside OR"
    if name == "tenant":
        return "the tenant is always the caller's and is no field"
    near = get_close_matches(name, NAMES, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(NAMES))}"
    return f'there is no field {name}; {hint} For the text itself write it in quotes: "{name}:..."'


def _check_statuses(values: Sequence[Value]) -> None:
    for value in values:
        if value.text not in STATUSES and not value.prefix:
            near = get_close_matches(value.text, STATUSES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise QuerySyntaxError(value.at, f"must be of {', '.join(STATUSES)}, not {value.text!r}{hint}")


def _terms(paths: Sequence[str], values: Sequence[Value]) -> Clause:
    whole = [value.text for value in values if not value.prefix]
    clauses: list[Clause] = [{"terms": {path: whole}} for path in paths] if whole else []
    for value in values:
        if value.prefix:
            clauses += [_prefix(path, value.text) for path in paths]
    return _any(clauses)


def _prefix(path: str, text: str) -> Clause:
    return {"prefix": {path: text}} if text else {"exists": {"field": path}}


def _text(path: str, value: Value) -> Clause:
    return _words(value.text, value.prefix, (path,)) if value.text else {"exists": {"field": path}}


def _words(text: str, prefix: bool, paths: Sequence[str]) -> Clause:
    if prefix and text.isalnum():
        return _any([{"prefix": {path: text.lower()}} for path in paths])
    query: Clause = {"query": text, "fields": list(paths), "type": "phrase_prefix" if prefix else "phrase"}
    if prefix:
        query["max_expansions"] = MAX_EXPANSIONS
    return {"multi_match": query}


def _any(clauses: list[Clause]) -> Clause:
    return clauses[0] if len(clauses) == 1 else {"bool": {"should": clauses, "minimum_should_match": 1}}


@dataclass(frozen=True, slots=True)
class _Scale:
    path: str
    read: Callable[[str], Any]


def _time(node: Field, path: str, value: Value, now: datetime) -> Clause:
    """``at:yesterday`` and ``at:2026-11-22`` are whole days."""
    if node.operator == ":" and not value.prefix and ".." not in value.text:
        day = _checked(value, lambda text: moment(text, now))
        if day.time() != datetime.min.time() or "T" in value.text:
            raise QuerySyntaxError(value.at, f"must be a day; compare with a time: {node.name}>{value.text}")
        last_day = day.date() == date.max  # nothing comes after it
        until = {} if last_day else {"lt": (day + timedelta(days=1)).isoformat()}
        return {"range": {path: {"gte": day.isoformat(), **until}}}
    return _compared(node, value, _Scale(path, lambda text: moment(text, now).isoformat()))


def _compared(node: Field, value: Value, scale: _Scale) -> Clause:
    if value.prefix:
        if value.text or node.operator != ":":
            raise QuerySyntaxError(value.at, f"{node.name} takes no *; write a value, or {node.name}:* for any at all")
        return {"exists": {"field": scale.path}}
    if node.operator != ":":
        return {"range": {scale.path: {_COMPARISONS[node.operator]: _checked(value, scale.read)}}}
    if ".." not in value.text:
        return {"term": {scale.path: _checked(value, scale.read)}}
    low, _, high = value.text.partition("..")
    span = {
        bound: _checked(Value(text, at=at), scale.read)
        for bound, text, at in (("gte", low, value.at), ("lte", high, value.at + len(low) + 2))
        if text
    }
    if not span:
        raise QuerySyntaxError(value.at, "a range has an end: 3..7, 3.. or ..7")
    return {"range": {scale.path: span}}


def _checked(value: Value, read: Callable[[str], Any]) -> Any:
    try:
        return read(value.text)
    except (ValueError, OverflowError) as error:
        raise QuerySyntaxError(value.at, str(error)) from error


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"must be a whole number, not {text!r}")
    return int(text)


def _duration(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a duration such as 250ms, 30s, 5m, 2h or 1d, not {text!r}")
    return float(match[1]) * _MS[match[2] or "ms"]


def of_threads(visible: Sequence[str] | None) -> list[dict[str, Any]]:
    """The clause that finds documents of these threads only; none where all may be found."""
    return [] if visible is None else [{"terms": {"thread_id": list(visible)}}]
