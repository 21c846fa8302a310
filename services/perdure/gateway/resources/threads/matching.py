"""Which threads a search means, as MongoDB queries and as a comparison of values. Pure functions.

Contract: an object matches when each of its keys does (PostgreSQL's ``@>`` for objects, as the Agent Server does); anything else
matches its equal and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from perdure.gateway.http.problems import not_supported
from perdure.gateway.resources.threads.views import GRAPH_FIELDS

Document = dict[str, Any]


def metadata_clauses(metadata: Mapping[str, Any]) -> list[Document]:
    """The conditions on a thread's document under which the thread shows this metadata.

    Raises:
        RequestProblem: ``not-supported``, for a key that MongoDB cannot address.

    """
    return [clause for key, value in metadata.items() for clause in _shown(key, value)]


def status_clause(status: str, busy: Collection[str]) -> Document:
    """The condition under which a thread shows this status; ``busy``: the ids of the threads with an active run."""
    if status == "busy":
        return {"_id": {"$in": list(busy)}}
    return {"status": status, "_id": {"$nin": list(busy)}} if busy else {"status": status}


def contains(whole: Any, part: Any) -> bool:
    """Whether ``whole`` has everything that ``part`` has."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    return type(whole) is type(part) and bool(whole == part) if isinstance(part, bool) else bool(whole == part)


def _shown(key: str, value: Any) -> Iterator[Document]:
    own = list(_clauses(f"metadata.{_addressable(key, '/metadata')}", value, f"/metadata/{key}"))
    if key not in GRAPH_FIELDS:
        yield from own
        return
    yield {"$or": [{"$and": own}, {f"metadata.{key}": {"$exists": False}, key: {"$eq": value}}]}


def _clauses(path: str, value: Any, pointer: str) -> Iterator[Document]:
    if isinstance(value, dict):
        yield {path: {"$type": "object"}}
        for key, inner in value.items():
            yield from _clauses(f"{path}.{_addressable(key, pointer)}", inner, f"{pointer}/{key}")
    elif value is None:
        yield {path: {"$type": "null"}}
    elif isinstance(value, list):
        yield {path: {"$eq": value}}
    else:
        yield {path: {"$eq": value, "$not": {"$type": "array"}}}


def _addressable(key: str, pointer: str) -> str:
    if not key or key.startswith("$") or "." in key or "\0" in key:
        raise not_supported(
            f"{pointer}/{key}",
            f"Metadata cannot be searched by the key {key!r}: it is empty, begins with $ or holds a dot.",
        )
    return key
