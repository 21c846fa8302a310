"""Counting what a search finds: by node, graph, status or day. Pure.

Contract: the count of a group is the total of the same search with that one condition more (``graph:crm``, ``at:2026-11-22``);
at most :data:`MOST` groups, the largest first (days: the newest first). A node has three places in a document, so its candidates
are looked for first and counted exactly by a second request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perdure.gateway.search.fields import NODE_FIELDS, node_is

BY: Final = ("node", "graph", "status", "day")
MOST: Final = 100

Aggregations = dict[str, Any]


def first_aggregations(by: str) -> Aggregations:
    """What to ask for together with the items."""
    if by == "node":
        return {path: {"terms": {"field": path, "size": MOST}} for path in NODE_FIELDS}
    if by == "day":
        days = {"field": "occurred_at", "calendar_interval": "day", "min_doc_count": 1, "order": {"_key": "desc"}}
        return {by: {"date_histogram": days}}
    return {by: {"terms": {"field": by, "size": MOST}}}


def second_aggregations(by: str, found: Mapping[str, Any]) -> Aggregations | None:
    """What to ask for afterwards; ``None`` if everything is known."""
    if by != "node":
        return None
    names = sorted({bucket["key"] for path in NODE_FIELDS for bucket in found[path]["buckets"]})
    return {by: {"filters": {"filters": {name: node_is([name]) for name in names}}}} if names else None


def groups_of(by: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The groups as clients see them: ``key`` and ``count``."""
    if by == "node":
        counted = found.get(by, {}).get("buckets", {})
        groups = [{"key": name, "count": bucket["doc_count"]} for name, bucket in counted.items()]
        return sorted(groups, key=lambda group: (-group["count"], group["key"]))[:MOST]
    buckets = found[by]["buckets"][:MOST]
    return [{"key": _key(by, bucket), "count": bucket["doc_count"]} for bucket in buckets]


def _key(by: str, bucket: Mapping[str, Any]) -> str:
    return str(bucket["key_as_string"])[:10] if by == "day" else str(bucket["key"])
