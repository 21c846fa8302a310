"""The search index: its documents, names and templates.

Contract: :class:`IndexDocument` is the only description of an indexed document; the mapping, and with it the templates in
``deploy/opensearch/``, are generated from it, and the mapping is strict: a field that is not here is refused.

Names: states are in a series of indices ``perdure-states-000001`` ... behind :data:`STATES` (reading) and :data:`STATES_WRITE`
(rollover); the newest state of each thread is in one index behind :data:`THREADS`. A rebuild makes new ones with a stamp in
their names and moves the aliases (ADR 4).

Outside: I/O, and what of an event goes where (``perdure.indexer.domain``).
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Final, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

STATES: Final = "perdure-states"
STATES_WRITE: Final = "perdure-states-write"
THREADS: Final = "perdure-threads"
FIRST_STATES_INDEX: Final = f"{STATES}-000001"
FIRST_THREADS_INDEX: Final = f"{THREADS}-000001"

MAX_KEYWORD: Final = 1024
"""Characters of a keyword that can be searched for; a longer one is stored and not found by its value."""

MAX_METADATA_LEAF: Final = 1024
"""Characters of one metadata value that are indexed."""

Mapping_ = dict[str, Any]

KEYWORD: Final[Mapping_] = {"type": "keyword", "ignore_above": MAX_KEYWORD}
TEXT: Final[Mapping_] = {"type": "text", "analyzer": "standard", "norms": False}
LONG: Final[Mapping_] = {"type": "long"}
DATE: Final[Mapping_] = {"type": "date", "format": "strict_date_optional_time"}
FLOAT: Final[Mapping_] = {"type": "float"}
FLAT: Final[Mapping_] = {"type": "flat_object"}


class IndexedError(TypedDict, total=False):
    """A failure, without its traceback."""

    type: Annotated[str, KEYWORD]
    message: Annotated[str, TEXT]
    node: Annotated[str, KEYWORD]


class IndexedWait(TypedDict, total=False):
    """What a thread waits for."""

    ids: Annotated[list[str], KEYWORD]
    """The interrupts' ids."""
    text: Annotated[str, TEXT]
    """The questions, as text."""


class IndexedStuck(TypedDict, total=False):
    """Why a thread is stuck."""

    code: Annotated[str, KEYWORD]
    reason: Annotated[str, TEXT]
    since: Annotated[datetime, DATE]
    """The last sign of progress."""


class IndexedNotice(TypedDict, total=False):
    """What became of a notice about the thread."""

    id: Annotated[str, KEYWORD]
    """The delivery."""
    subscription: Annotated[str, KEYWORD]
    kind: Annotated[str, KEYWORD]
    channel: Annotated[str, KEYWORD]
    result: Annotated[str, KEYWORD]
    """``delivered`` or ``dead``."""
    attempts: Annotated[int, LONG]
    text: Annotated[str, TEXT]
    """All of it in words, the target and the reason too."""


class IndexedArchive(TypedDict, total=False):
    """Where an archived thread is."""

    object: Annotated[str, KEYWORD]
    """The key of its object in the archive store."""
    bytes: Annotated[int, LONG]
    """Of the object."""
    at: Annotated[datetime, DATE]


class IndexDocument(TypedDict, total=False):
    """One state change of a thread (and, in the threads index, its newest). A field that is not known is absent."""

    thread_id: Annotated[str, KEYWORD]
    run_id: Annotated[str, KEYWORD]
    tenant: Annotated[str, KEYWORD]
    graph: Annotated[str, KEYWORD]
    graph_version: Annotated[str, KEYWORD]
    assistant: Annotated[str, KEYWORD]
    seq: Annotated[int, LONG]
    note: Annotated[int, LONG]
    """Of an event outside the owner's history: which one after ``seq``."""
    epoch: Annotated[int, LONG]
    event: Annotated[str, KEYWORD]
    """The event's type, e.g. ``perdure.checkpoint.saved``."""
    source: Annotated[str, KEYWORD]
    """Of a checkpoint: ``input``, ``loop``, ``update`` or ``fork``."""
    nodes: Annotated[list[str], KEYWORD]
    """The nodes that ran."""
    next: Annotated[list[str], KEYWORD]
    """The nodes that run next, or where the thread stands."""
    step: Annotated[int, LONG]
    status: Annotated[str, KEYWORD]
    """``running``, ``interrupted``, ``success``, ``error``, ``timeout``, ``cancelled`` or ``stuck``."""
    wait: IndexedWait
    stuck: IndexedStuck
    error: IndexedError
    notice: IndexedNotice
    archived: IndexedArchive
    """There when the thread had gone to the archive; its restoration is a newer document without it."""
    occurred_at: Annotated[datetime, DATE]
    duration_ms: Annotated[float, FLOAT]
    expected_by: Annotated[datetime, DATE]
    """When the thread should have gone on, where the event says so."""
    channels: Annotated[list[str], KEYWORD]
    """The channels that changed."""
    checkpoint_id: Annotated[str, KEYWORD]
    """The full state is there."""
    checkpoint_ns: Annotated[str, KEYWORD]
    text: Annotated[str, TEXT]
    """The changed part of the state: values, one a line. Only in the states index."""
    metadata: Annotated[dict[str, Any], FLAT]
    digest: Annotated[int, LONG]
    """32 bits of all the rest: sums of it tell in one question whether many documents are as the store says (ADR 16)."""


def mapping_of(document: Any) -> Mapping_:
    """The strict mapping of a typed dictionary whose fields are annotated with their field mappings."""
    properties: Mapping_ = {}
    for name, hint in get_type_hints(document, include_extras=True).items():
        if is_typeddict(hint):
            properties[name] = mapping_of(hint)
        elif get_origin(hint) is Annotated:
            properties[name] = get_args(hint)[1]
        else:
            raise TypeError(f"{document.__name__}.{name} has no field mapping")
    return {"dynamic": "strict", "properties": properties}


def _template(pattern: str, settings: Mapping_) -> Mapping_:
    mapping = mapping_of(IndexDocument) | {"_meta": {"generated_from": "perdure.schemas.index"}}
    base = {
        "index.number_of_shards": 1,
        "index.auto_expand_replicas": "0-1",
        # A refresh waits for no merge: on busy cores a merge takes a second.
        "index.merge_on_flush.enabled": False,
    }
    return {
        "index_patterns": [pattern],
        "priority": 200,
        "template": {"settings": base | settings, "mappings": mapping},
    }


REFRESH_INTERVALS: Final = {STATES: "500ms", THREADS: "1s"}
"""How long what was written may stay unfound. The threads index is written once a second at most."""

TEMPLATES: Final[dict[str, Mapping_]] = {
    name: _template(f"{name}-*", {"index.refresh_interval": interval}) for name, interval in REFRESH_INTERVALS.items()
}
"""Index templates by name. Aliases are set by the indexer, not here: a rebuild's indices join only when they are complete."""

FOLDER: Final = "deploy/opensearch"


def generated_files() -> dict[str, bytes]:
    """The files that are generated from here, by path relative to the repository."""
    return {
        f"{FOLDER}/{name}.template.json": (json.dumps(template, indent=2) + "\n").encode()
        for name, template in TEMPLATES.items()
    }
