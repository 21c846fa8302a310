"""``GET /search``: past states of all threads of a tenant, found by text, node, status, time and more.

Contract: :func:`parse` and :func:`body_of` are pure; :func:`search` adds the one request. Every query is restricted to its tenant
by a filter that no parameter reaches. Paging is by position in the sort order, not by offset: an opaque cursor holds the
position and the time range as it was resolved on the first page, and is good only for the query that gave it.

Of archived threads everything is found as before; each item says where its thread is (``archived``).

``node`` matches the node that ran, that runs next (where a waiting or stuck thread stands), or that failed. Times are UTC;
``since`` is included, ``until`` is not. Highlights are HTML: escaped text, with ``<em>`` around what was found.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final

from perdure.chassis import json
from perdure.chassis.errors import RefusedError, UnavailableError
from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.schemas.index import STATES, THREADS

SCOPES: Final = {"states": STATES, "threads": THREADS}
STATUSES: Final = ("running", "interrupted", "success", "error", "timeout", "cancelled", "stuck")
TERMS: Final = {
    "graph": "graph",
    "thread_id": "thread_id",
    "run_id": "run_id",
    "status": "status",
    "code": "stuck.code",
}
PARAMETERS: Final = ("q", "node", *TERMS, "since", "until", "expected_before", "scope", "limit", "cursor")
METADATA: Final = "metadata."
TEXT_FIELDS: Final = {
    "text": "text",
    "error.message": "error",
    "wait.text": "wait",
    "stuck.reason": "stuck",
    "notice.text": "notice",
}
ITEM_FIELDS: Final = (
    "thread_id",
    "run_id",
    "seq",
    "note",
    "checkpoint_id",
    "checkpoint_ns",
    "graph",
    "event",
    "status",
    "nodes",
    "next",
    "step",
    "occurred_at",
    "duration_ms",
    "expected_by",
    "error",
    "wait",
    "stuck",
    "notice",
    "archived",
    "metadata",
)
DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 200
MAX_VALUE: Final = 1_000
MAX_VALUES: Final = 100
TIMEOUT_S: Final = 10.0

_AGO: Final = re.compile(r"(?:now-)?(\d{1,6})(s|m|h|d|w)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class SearchProblem(RefusedError):
    """A parameter is wrong.

    Attributes:
        pointer: Which one, as ``query:<name>``.
        detail: What is wrong with it and what would be right.

    """

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer}: {detail}")
        self.pointer = pointer
        self.detail = detail


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A checked query.

    Attributes:
        index: The alias to search.
        text: Words in the syntax of ``simple_query_string``, or ``None``.
        terms: Accepted values by field; all fields must match.
        nodes: The node is one of these, if any are given.
        since, until: The time range.
        expected_before: The thread should have gone on before.
        limit: Items of a page at most.
        after: Where the page begins: instant in milliseconds, thread id, sequence number.
        digest: Tells whether a cursor belongs to this query.

    """

    index: str
    text: str | None
    terms: tuple[tuple[str, tuple[str, ...]], ...]
    nodes: tuple[str, ...]
    since: datetime | None
    until: datetime | None
    expected_before: datetime | None
    limit: int
    after: tuple[int, str, int] | None
    digest: str


def parse(query: Mapping[str, str], now: datetime) -> SearchQuery:
    """Check the parameters; empty ones count as absent.

    Raises:
        SearchProblem: one is unknown or wrong.

    """
    given = {name: value.strip() for name, value in query.items() if value.strip()}
    for name, value in given.items():
        if name not in PARAMETERS and not (name.startswith(METADATA) and len(name) > len(METADATA)):
            raise SearchProblem(f"query:{name}", f"there is no such parameter; known are {', '.join(PARAMETERS)}")
        if len(value) > MAX_VALUE and name != "cursor":
            raise SearchProblem(f"query:{name}", f"is longer than {MAX_VALUE:,} characters")
    scope = given.get("scope", "states")
    if scope not in SCOPES:
        raise SearchProblem("query:scope", f"must be one of {', '.join(SCOPES)}, not {scope!r}")
    terms = [(field, _values(given, name)) for name, field in TERMS.items() if name in given]
    terms += [(name, (value,)) for name, value in sorted(given.items()) if name.startswith(METADATA)]
    for status in dict(terms).get("status", ()):
        if status not in STATUSES:
            raise SearchProblem("query:status", f"must be of {', '.join(STATUSES)}, not {status!r}")
    since, until = (moment(given[name], now, f"query:{name}") if name in given else None for name in ("since", "until"))
    expected_before = None
    if "expected_before" in given:
        expected_before = moment(given["expected_before"], now, "query:expected_before")
    identity = {name: value for name, value in given.items() if name not in {"cursor", "limit"}}
    digest = blake2b(json.dumps(sorted(identity.items())), digest_size=6).hexdigest()
    after = None
    if "cursor" in given:
        after, since, until = _read_cursor(given["cursor"], digest)
    elif since and until and since >= until:
        raise SearchProblem("query:until", f"must be after since: {until.isoformat()} is not after {since.isoformat()}")
    return SearchQuery(
        index=SCOPES[scope],
        text=given.get("q"),
        terms=tuple(terms),
        nodes=_values(given, "node"),
        since=since,
        until=until,
        expected_before=expected_before,
        limit=_limit(given.get("limit")),
        after=after,
        digest=digest,
    )


def moment(value: str, now: datetime, pointer: str) -> datetime:
    """An instant: ISO 8601 (UTC if it says nothing else), ``now``, ``today``, ``yesterday``, ``now-2h`` or ``2h``.

    Raises:
        SearchProblem: it is none of these.

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
        raise SearchProblem(pointer, f"must be {allowed}, not {value!r}") from error


def body_of(query: SearchQuery, tenant: str) -> dict[str, Any]:
    """The body of the request."""
    filters: list[dict[str, Any]] = [{"term": {"tenant": tenant}}]
    filters += [{"terms": {field: list(values)}} for field, values in query.terms]
    if query.nodes:
        fields = ("nodes", "next", "error.node")
        filters.append({"bool": {"should": [{"terms": {field: list(query.nodes)}} for field in fields]}})
    span = {"gte": query.since, "lt": query.until}
    if any(span.values()):
        filters.append({"range": {"occurred_at": {k: v.isoformat() for k, v in span.items() if v}}})
    if query.expected_before:
        filters.append({"range": {"expected_by": {"lt": query.expected_before.isoformat()}}})
    clauses: dict[str, Any] = {"filter": filters}
    body: dict[str, Any] = {}
    if query.text:
        words = {"query": query.text, "fields": list(TEXT_FIELDS), "default_operator": "and", "lenient": True}
        clauses["must"] = [{"simple_query_string": words}]
        body["highlight"] = {
            "encoder": "html",
            "fragment_size": 160,
            "number_of_fragments": 3,
            "fields": {field: {} for field in TEXT_FIELDS},
        }
    body |= {
        "query": {"bool": clauses},
        "size": query.limit + 1,
        "track_total_hits": True,
        "_source": list(ITEM_FIELDS),
        "sort": [
            {"occurred_at": "desc"},
            {"thread_id": "asc"},
            {"seq": "desc"},
        ],
    }
    if query.after:
        body["search_after"] = list(query.after)
    return body


def answer_of(query: SearchQuery, found: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to the client from OpenSearch's."""
    hits = found["hits"]["hits"]
    page = hits[: query.limit]
    return {
        "total": found["hits"]["total"]["value"],
        "items": [_item(hit) for hit in page],
        "cursor": _cursor(query, page[-1]["sort"]) if len(hits) > query.limit else None,
    }


async def search(client: OpenSearch, tenant: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Answer one search.

    Args:
        client: OpenSearch.
        tenant: Whose states; nothing else is ever found.
        query: The query parameters as they came.

    Returns:
        ``total``, ``items`` (newest first) and ``cursor`` (``None`` on the last page).

    Raises:
        SearchProblem: a parameter is wrong.
        UnavailableError: OpenSearch does not answer.

    """
    checked = parse(query, datetime.now(UTC))
    found = answer_of(checked, await ask(client, checked.index, body_of(checked, tenant)))
    if checked.index == STATES and found["items"]:
        await _mark_archived(client, tenant, found["items"])
    return found


async def _mark_archived(client: OpenSearch, tenant: str, items: Sequence[dict[str, Any]]) -> None:
    """Say of past states whether their thread is archived now: its newest document knows."""
    threads = {item["thread_id"] for item in items}
    filters = [
        {"term": {"tenant": tenant}},
        {"terms": {"thread_id": sorted(threads)}},
        {"exists": {"field": "archived.at"}},
    ]
    body = {"query": {"bool": {"filter": filters}}, "size": len(threads), "_source": ["thread_id", "archived"]}
    found = await ask(client, THREADS, body)
    marks = {hit["_source"]["thread_id"]: hit["_source"]["archived"] for hit in found["hits"]["hits"]}
    for item in items:
        item["archived"] = marks.get(item["thread_id"])


async def ask(client: OpenSearch, index: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """What OpenSearch finds; ``hits.hits`` is there also when it is empty.

    Raises:
        SearchProblem: it refuses the query.
        UnavailableError: it does not answer.

    """
    params = {
        "ignore_unavailable": "true",
        "allow_partial_search_results": "false",
        "filter_path": "hits.total.value,hits.hits._source,hits.hits.sort,hits.hits.highlight",
    }
    try:
        found: dict[str, Any] = await client.request("POST", f"/{index}/_search", body, params, timeout_s=TIMEOUT_S)
    except OpenSearchRefusedError as error:
        if error.status == 400:
            raise SearchProblem("query", f"OpenSearch refuses the query: {error.reason}") from error
        raise UnavailableError("OpenSearch", client.address, str(error)) from error
    found["hits"].setdefault("hits", [])
    return found


def _item(hit: Mapping[str, Any]) -> dict[str, Any]:
    source = hit["_source"]
    item = {name: source.get(name) for name in ITEM_FIELDS}
    item["nodes"] = source.get("nodes", [])
    item["next"] = source.get("next", [])
    item["metadata"] = source.get("metadata", {})
    item["highlights"] = {TEXT_FIELDS[field]: found for field, found in hit.get("highlight", {}).items()}
    return item


def _values(given: Mapping[str, str], name: str) -> tuple[str, ...]:
    values = tuple(part for value in given.get(name, "").split(",") if (part := value.strip()))
    if len(values) > MAX_VALUES:
        raise SearchProblem(f"query:{name}", f"names more than {MAX_VALUES} values")
    return values


def _limit(value: str | None) -> int:
    if value is None:
        return DEFAULT_LIMIT
    if value.isascii() and value.isdecimal() and 1 <= int(value) <= MAX_LIMIT:
        return int(value)
    raise SearchProblem("query:limit", f"must be a number from 1 to {MAX_LIMIT}, not {value!r}")


def _cursor(query: SearchQuery, sort: list[Any]) -> str:
    span = [time.isoformat() if time else None for time in (query.since, query.until)]
    return base64.urlsafe_b64encode(json.dumps([query.digest, [int(sort[0]), *sort[1:]], *span])).decode().rstrip("=")


def _read_cursor(value: str, digest: str) -> tuple[tuple[int, str, int], datetime | None, datetime | None]:
    try:
        found, (at, thread, seq), *span = json.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
        since, until = (datetime.fromisoformat(time) if time else None for time in span)
        after = (int(at), str(thread), int(seq))
    except (ValueError, TypeError, binascii.Error) as error:
        raise SearchProblem("query:cursor", "is not a cursor that a search gave") from error
    if found != digest:
        raise SearchProblem("query:cursor", "belongs to another query: keep the other parameters as they were")
    return after, since, until
