"""Indices: templates, aliases, rollover, and which index a state belongs to (ADR 4).

Contract: :func:`ensure` is idempotent and may run in several indexers at once. Only the newest states index takes writes; the
older ones are blocked, so a state that was indexed before is in an older index only if it happened before that index was
superseded (give or take the clocks). :meth:`Layout.older_for` names those few; in steady state there are none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.chassis.telemetry import logger
from perdure.schemas.index import (
    FIRST_STATES_INDEX,
    FIRST_THREADS_INDEX,
    STATES,
    STATES_WRITE,
    TEMPLATES,
    THREADS,
)

log = logger(__name__)

_NUMBERED: Final = re.compile(r"(.+)-(\d{6,})")


@dataclass(frozen=True, slots=True)
class Superseded:
    """A states index that takes no writes any more."""

    name: str
    at_ms: int
    """When its successor was created, in milliseconds since 1970 by OpenSearch's clock."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where to write, as read from the aliases."""

    states: str
    threads: str
    older: tuple[Superseded, ...] = ()

    def older_for(self, occurred_at: datetime, skew_s: float) -> list[str]:
        """The older indices that may hold a state of that instant already."""
        if not self.older:
            return []
        earliest = (occurred_at.timestamp() - skew_s) * 1000
        return [index.name for index in self.older if index.at_ms >= earliest]


async def ensure(client: OpenSearch, shards: int = 1) -> None:
    """Create what is missing: templates, first indices, aliases; add new fields to the indices that take writes.

    Args:
        client: OpenSearch.
        shards: Primary shards of a states index that is made from now on.

    """
    for name, template in TEMPLATES.items():
        await client.request(
            "PUT", f"/_index_template/{name}", _with_shards(template, shards) if name == STATES else template
        )
    write = {STATES: {}, STATES_WRITE: {"is_write_index": True}}
    await _create_first(client, STATES_WRITE, FIRST_STATES_INDEX, write)
    await _create_first(client, THREADS, FIRST_THREADS_INDEX, {THREADS: {}})
    layout = await read_layout(client)
    mapping = TEMPLATES[STATES]["template"]["mappings"]
    await client.request("PUT", f"/{layout.states},{layout.threads}/_mapping", mapping)
    await block_older(client, layout)


def _with_shards(template: dict[str, Any], shards: int) -> dict[str, Any]:
    inner = template["template"]
    return template | {"template": inner | {"settings": inner["settings"] | {"index.number_of_shards": shards}}}


async def _create_first(client: OpenSearch, alias: str, index: str, aliases: dict[str, Any]) -> None:
    # Among ours alone: a user whose role names only these indices may not ask about all.
    if await client.request("HEAD", f"/{STATES}-*,{THREADS}-*/_alias/{alias}"):
        return
    try:
        await client.request("PUT", f"/{index}", {"aliases": aliases})
    except OpenSearchRefusedError as error:
        if error.type != "resource_already_exists_exception":
            raise
        # Another indexer was faster, or an index lost its alias: setting the alias again changes nothing otherwise.
        actions = [{"add": {"index": index, "alias": name, **options}} for name, options in aliases.items()]
        await client.request("POST", "/_aliases", {"actions": actions})


async def read_layout(client: OpenSearch) -> Layout:
    """Where to write now.

    Raises:
        UnavailableError: OpenSearch does not answer.
        OpenSearchRefusedError: an alias is missing; see :func:`ensure`.

    """
    found = await client.request(
        "GET",
        f"/{STATES},{THREADS}",
        params={"filter_path": "*.aliases,*.settings.index.creation_date", "expand_wildcards": "all"},
    )
    states = sorted(
        (int(index["settings"]["index"]["creation_date"]), name, index["aliases"])
        for name, index in found.items()
        if STATES in index["aliases"]
    )
    threads = [name for name, index in found.items() if THREADS in index["aliases"]]
    current = next((name for _, name, aliases in states if aliases.get(STATES_WRITE, {}).get("is_write_index")), None)
    if current is None:
        raise OpenSearchRefusedError(404, "aliases_not_found_exception", f"no index is behind {STATES_WRITE}", "GET")
    position = [name for _, name, _ in states].index(current)
    older = tuple(Superseded(states[i][1], states[i + 1][0]) for i in range(position))
    return Layout(current, threads[0], older)


async def roll_over(client: OpenSearch, layout: Layout, *, max_size: str, max_docs: int) -> bool:
    """Begin a new states index if the present one is full. Several indexers may call this at once: one succeeds."""
    following = successor(layout.states)
    try:
        done = await client.request(
            "POST",
            f"/{STATES_WRITE}/_rollover/{following}",
            {"conditions": {"max_size": max_size, "max_docs": max_docs}, "aliases": {STATES: {}}},
        )
    except OpenSearchRefusedError as error:
        if error.type == "resource_already_exists_exception":
            return True
        raise
    if done.get("rolled_over"):
        log.info("index.rolled_over", old=layout.states, new=following)
    return bool(done.get("rolled_over"))


def successor(index: str) -> str:
    """The next name of the series."""
    match = _NUMBERED.fullmatch(index)
    if match is None:
        raise ValueError(f"{index!r} does not end in a number")
    return f"{match[1]}-{int(match[2]) + 1:06d}"


async def block_older(client: OpenSearch, layout: Layout) -> None:
    """Let no older index take writes: an indexer that has not noticed a rollover is refused and looks again."""
    if layout.older:
        names = ",".join(index.name for index in layout.older)
        await block(client, names)


async def block(client: OpenSearch, names: str) -> None:
    """Block writes to indices. Idempotent."""
    await client.request("PUT", f"/{names}/_settings", {"index.blocks.write": True}, {"ignore_unavailable": "true"})


async def present(client: OpenSearch, wanted: dict[str, list[str]]) -> set[str]:
    """Which of the wanted ids, by index, are there already. Reads in real time, before any refresh."""
    docs = [{"_index": index, "_id": id_} for index, ids in wanted.items() for id_ in ids]
    found: set[str] = set()
    for start in range(0, len(docs), 5_000):
        answer = await client.request(
            "POST",
            "/_mget",
            {"docs": docs[start : start + 5_000]},
            {"_source": "false", "filter_path": "docs._id,docs.found"},
        )
        found.update(doc["_id"] for doc in answer["docs"] if doc.get("found"))
    return found
