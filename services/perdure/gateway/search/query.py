"""``GET /search``: past states of all threads of a tenant, found by text, node, status, time and more.

Contract: :func:`parse` and :func:`body_of` are pure; :func:`search` adds the requests. ``q`` is a text in the search language
(``perdure.gateway.search.language``); each other condition is one of its fields as a parameter, and all of them must hold. Every
query is restricted to its tenant by a filter that no parameter reaches. Paging is by position in the sort order, not by offset: an
opaque cursor holds the position and the instant of the first page, which relative times stay relative to, and is good only for
the query that gave it. Highlights are HTML: escaped text, with ``<em>`` around what was found.

Of archived threads everything is found as before; each item says where its thread is (``archived``).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

from perdure.chassis import json
from perdure.chassis.clock import now
from perdure.chassis.errors import RefusedError, UnavailableError
from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.gateway.search.fields import METADATA, TEXT_FIELDS, has_words, moment, of_tenant, of_threads, query_of
from perdure.gateway.search.groups import BY, first_aggregations, groups_of, second_aggregations
from perdure.gateway.search.language import And, Field, Node, QuerySyntaxError, Value
from perdure.gateway.search.language import parse as tree_of
from perdure.schemas.index import STATES, THREADS
from perdure.schemas.thread_ids import UNQUALIFIED, both_ids

SCOPES: Final = {"states": STATES, "threads": THREADS}
LISTS: Final = ("node", "graph", "thread_id", "run_id", "status", "code")
"""Parameters that take several values with commas."""
MOMENTS: Final = ("since", "until", "expected_before")
PARAMETERS: Final = ("q", *LISTS, *MOMENTS, "scope", "by", "min_seq", "limit", "cursor")
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
MIN_SEQ_WAIT_S: Final = 5.0
MIN_SEQ_LOOK_S: Final = 0.1


class SearchProblem(RefusedError):
    """A parameter is wrong.

    Attributes:
        pointer: Which one, as ``query:<name>``.
        detail: What is wrong with it and what would be right.
        position: Where in the parameter, in characters from 0, if that is known.

    """

    def __init__(self, pointer: str, detail: str, position: int | None = None) -> None:
        super().__init__(f"{pointer}: {detail}")
        self.pointer = pointer
        self.detail = detail
        self.position = position


class SearchBehindError(UnavailableError):
    """The index has not reached what ``min_seq`` asks for in time."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A checked query.

    Attributes:
        index: The alias to search.
        clauses: What must hold, in OpenSearch's words, besides the tenant.
        words: Whether full text is asked for.
        now: What relative times are relative to.
        by: What to count by, or ``None``.
        min_seq: The thread and sequence number that the index must have reached, or ``None``.
        limit: Items of a page at most.
        after: Where the page begins: instant in milliseconds, thread id, sequence number, note.
        digest: Tells whether a cursor belongs to this query.

    """

    index: str
    clauses: tuple[dict[str, Any], ...]
    words: bool
    now: datetime
    by: str | None
    min_seq: tuple[str, int] | None
    limit: int
    after: tuple[int, str, int, int] | None
    digest: str


def parse(query: Mapping[str, str], now: datetime, tenant: str = UNQUALIFIED) -> SearchQuery:
    """Check the parameters; empty ones count as absent. Threads are named as in ``tenant``.

    Raises:
        SearchProblem: one is unknown or wrong.

    """
    given = {name: value.strip() for name, value in query.items() if value.strip()}
    for name, value in given.items():
        if name not in PARAMETERS and not (name.startswith(METADATA) and len(name) > len(METADATA)):
            raise SearchProblem(f"query:{name}", f"there is no such parameter; known are {', '.join(PARAMETERS)}")
        if len(value) > MAX_VALUE and name != "cursor":
            raise SearchProblem(f"query:{name}", f"is longer than {MAX_VALUE:,} characters")
    identity = {name: value for name, value in given.items() if name not in {"cursor", "limit", "min_seq"}}
    digest = blake2b(json.dumps(sorted(identity.items())), digest_size=6).hexdigest()
    after = None
    if "cursor" in given:
        after, now = _read_cursor(given["cursor"], digest)
    tree, scope = _tree(query.get("q", ""), given.get("scope"))
    conditions = [(f"query:{name}", _condition(given, name)) for name in (*LISTS, *MOMENTS) if name in given]
    conditions += [
        (f"query:{n}", Field(n, ":", (Value(v),))) for n, v in sorted(given.items()) if n.startswith(METADATA)
    ]
    clauses = [_compiled(pointer, of_tenant(field, tenant), now, None) for pointer, field in conditions]
    if tree is not None:
        clauses.append(_compiled("query:q", of_tenant(tree, tenant), now, query["q"]))
    _check_range(given, now)
    by = given.get("by")
    if by is not None and by not in BY:
        raise SearchProblem("query:by", f"must be one of {', '.join(BY)}, not {by!r}")
    return SearchQuery(
        index=SCOPES[scope],
        clauses=tuple(clauses),
        words=has_words(tree),
        now=now,
        by=by,
        min_seq=_min_seq(given.get("min_seq")),
        limit=_limit(given.get("limit")),
        after=after,
        digest=digest,
    )


def _tree(text: str, scope: str | None) -> tuple[Node | None, str]:
    """The tree of ``q`` without ``scope:...``, and the scope."""
    if scope is not None and scope not in SCOPES:
        raise SearchProblem("query:scope", f"must be one of {', '.join(SCOPES)}, not {scope!r}")
    try:
        tree = tree_of(text)
    except QuerySyntaxError as error:
        raise SearchProblem("query:q", error.detail, error.position) from error
    operands = tree.operands if isinstance(tree, And) else (tree,)
    left: list[Node] = []
    for one in operands:
        if not isinstance(one, Field) or one.name != "scope":
            left += [one] if one is not None else []
            continue
        asked = one.values[0].text
        if one.operator != ":" or len(one.values) > 1 or asked not in SCOPES:
            raise SearchProblem("query:q", f"scope must be one of {', '.join(SCOPES)}", one.values[0].at)
        if scope not in {None, asked}:
            raise SearchProblem("query:q", f"the scope is {scope} already", one.at)
        scope = asked
    rest = And(tuple(left)) if len(left) > 1 else left[0] if left else None
    return rest, scope or "states"


def _condition(given: Mapping[str, str], name: str) -> Field:
    texts = _values(given, name) if name in LISTS else (given[name],)
    return Field(name, ":", tuple(Value(text) for text in texts))


def _compiled(pointer: str, node: Node, now: datetime, text: str | None) -> dict[str, Any]:
    try:
        return query_of(node, now)
    except QuerySyntaxError as error:
        raise SearchProblem(pointer, error.detail, None if text is None else error.position) from error


def _check_range(given: Mapping[str, str], now: datetime) -> None:
    if "since" in given and "until" in given:
        since, until = moment(given["since"], now), moment(given["until"], now)
        if since >= until:
            raise SearchProblem(
                "query:until", f"must be after since: {until.isoformat()} is not after {since.isoformat()}"
            )


def _min_seq(value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    thread, _, seq = value.rpartition(":")
    if not thread or not (seq.isascii() and seq.isdecimal() and len(seq) <= 18):
        raise SearchProblem("query:min_seq", f"must be <thread id>:<seq>, such as 0199a:17, not {value!r}")
    return thread, int(seq)


def within(query: SearchQuery, visible: Sequence[str] | None) -> SearchQuery:
    """A query that finds states of these threads only; ``None``: of all."""
    return replace(query, clauses=(*query.clauses, *of_threads(visible)))


def body_of(query: SearchQuery, tenant: str, excerpt: int = 0) -> dict[str, Any]:
    """The body of the request; ``excerpt`` is that of :func:`search`."""
    body: dict[str, Any] = {
        "query": {"bool": {"filter": [{"term": {"tenant": tenant}}, *query.clauses]}},
        "size": query.limit + 1,
        "track_total_hits": True,
        "_source": list(ITEM_FIELDS),
        "sort": [
            {"occurred_at": "desc"},
            {"thread_id": "asc"},
            {"seq": "desc"},
            {"note": {"order": "desc", "missing": 0}},
        ],
    }
    if query.words or excerpt:
        body["highlight"] = {
            "encoder": "html",
            "fragment_size": 160,
            "number_of_fragments": 3,
            "no_match_size": excerpt,
            "fields": {field: {} for field in TEXT_FIELDS},
        }
    if query.by:
        body["aggs"] = first_aggregations(query.by)
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


async def search(
    client: OpenSearch, tenant: str, query: Mapping[str, str], excerpt: int = 0, visible: Sequence[str] | None = None
) -> dict[str, Any]:
    """Answer one search.

    Args:
        client: OpenSearch.
        tenant: Whose states; nothing else is ever found.
        query: The query parameters as they came.
        excerpt: Characters that ``highlights`` holds of a text in which nothing was looked for; 0 leaves it out.
        visible: The threads whose states are found; ``None``: all of the tenant's.

    Returns:
        ``total``, ``items`` (newest first), ``cursor`` (``None`` on the last page), and with ``by`` also ``groups``.

    Raises:
        SearchProblem: a parameter is wrong.
        SearchBehindError: the index did not reach ``min_seq`` in time.
        UnavailableError: OpenSearch does not answer.

    """
    checked = within(parse(query, now(), tenant), visible)
    if checked.min_seq:
        await _until_reached(client, tenant, checked.index, *checked.min_seq, of_threads(visible))
    body = body_of(checked, tenant, excerpt)
    found = await ask(client, checked.index, body)
    answer = answer_of(checked, found)
    if checked.index == STATES and answer["items"]:
        await _mark_archived(client, tenant, answer["items"])
    if checked.by:
        aggregations = found.get("aggregations")
        if aggregations is None:  # the indexer has not made the index yet
            return answer | {"groups": []}
        if again := second_aggregations(checked.by, aggregations):
            counted = {"query": body["query"], "size": 0, "track_total_hits": False, "aggs": again}
            aggregations = (await ask(client, checked.index, counted))["aggregations"]
        answer["groups"] = groups_of(checked.by, aggregations)
    return answer


async def _until_reached(
    client: OpenSearch, tenant: str, index: str, thread: str, seq: int, visible: Sequence[dict[str, Any]]
) -> None:
    """Wait until the thread is searchable up to ``seq``; its events are indexed in order."""
    filters = [
        {"term": {"tenant": tenant}},
        *visible,
        {"terms": {"thread_id": both_ids(tenant, thread)}},
        {"range": {"seq": {"gte": seq}}},
    ]
    body = {"query": {"bool": {"filter": filters}}, "size": 1, "_source": False}
    deadline = time.monotonic() + MIN_SEQ_WAIT_S
    while not (await ask(client, index, body))["hits"]["hits"]:
        if time.monotonic() > deadline:
            detail = f"thread {thread!r} is not searchable up to {seq} after {MIN_SEQ_WAIT_S:g} s"
            raise SearchBehindError("OpenSearch", client.address, detail)
        await asyncio.sleep(MIN_SEQ_LOOK_S)


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
        "filter_path": "hits.total.value,hits.hits._id,hits.hits._source,hits.hits.sort,hits.hits.highlight,aggregations",
    }
    try:
        found: dict[str, Any] = await client.request("POST", f"/{index}/_search", body, params, timeout_s=TIMEOUT_S)
    except OpenSearchRefusedError as error:
        if error.status == 400:
            raise SearchProblem("query", f"OpenSearch refuses the query: {error.reason}") from error
        raise UnavailableError("OpenSearch", client.address, str(error)) from error
    found.setdefault("hits", {}).setdefault("hits", [])
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
    position = [query.digest, [int(sort[0]), *sort[1:]], query.now.isoformat()]
    return base64.urlsafe_b64encode(json.dumps(position)).decode().rstrip("=")


def _read_cursor(value: str, digest: str) -> tuple[tuple[int, str, int, int], datetime]:
    try:
        found, (at, thread, seq, note), now = json.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
        after, moment_ = (int(at), str(thread), int(seq), int(note)), datetime.fromisoformat(now).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, binascii.Error) as error:
        raise SearchProblem("query:cursor", "is not a cursor that a search gave") from error
    if found != digest:
        raise SearchProblem("query:cursor", "belongs to another query: keep the other parameters as they were")
    return after, moment_
