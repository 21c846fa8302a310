"""What each service may do with each server: the one table that access control lists, roles and their tests come from.

Contract: plain data. A topic that a service consumes brings its dead-letter topic as one to write. ``perdure grants print`` writes
the table as commands of the servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from perdure.schemas import batch_documents, documents, key_documents, notices, session_documents, topics
from perdure.schemas.topics import Topic

READ: Final = ("find",)
UPDATE: Final = ("find", "update")
WRITE: Final = ("find", "insert", "update")
CHANGE: Final = ("find", "insert", "remove", "update")
INDEXED: Final = ("createCollection", "createIndex")
"""What ``ensure_indexes`` at the start of a service needs; nobody may drop an index or a collection."""
DATABASE_NAME: Final = "perdure"
SEARCHES: Final = ("indices:data/read/*", "indices:admin/resolve/index")
INDEXES: Final = (
    "indices:data/read/*",
    "indices:data/write/*",
    "indices:admin/aliases*",
    "indices:admin/create",
    "indices:admin/get",
    "indices:admin/mapping/put",
    "indices:admin/mappings/get",
    "indices:admin/refresh*",
    "indices:admin/rollover",
    "indices:admin/settings/update",
    "indices:monitor/*",
)
FORGETS: Final = (
    "indices:data/read/search*",
    "indices:data/write/bulk*",
    "indices:data/write/delete*",
    "indices:admin/get",
    "indices:admin/refresh*",
    "indices:admin/settings/update",
)
"""Removing the documents of a thread, also from an index that takes no writes any more."""


@dataclass(frozen=True, slots=True)
class Grants:
    """What one service may do.

    Attributes:
        consumes: Topics that it reads in its groups; it writes to their dead-letter topics.
        groups: Its consumer groups.
        group_prefixes: Names of groups that it reads as without joining them begin so (readers of a topic's end).
        described_groups: Groups of others whose progress it reads.
        reads: Topics that it reads without a group.
        described: Topics whose settings it reads.
        writes: Topics that it writes to.
        collections: Actions on MongoDB's collections.
        makes_indexes: Whether it creates missing indexes when it starts.
        indices: Actions on OpenSearch's indices, by index pattern.
        cluster: OpenSearch's actions on the cluster.

    """

    consumes: tuple[Topic, ...] = ()
    groups: tuple[str, ...] = ()
    group_prefixes: tuple[str, ...] = ()
    described_groups: tuple[str, ...] = ()
    reads: tuple[Topic, ...] = ()
    described: tuple[str, ...] = ()
    writes: tuple[Topic, ...] = ()
    collections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    makes_indexes: bool = False
    indices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cluster: tuple[str, ...] = ()

    @property
    def read_topics(self) -> list[str]:
        """Every topic that it reads."""
        return sorted({topic.name for topic in (*self.consumes, *self.reads)})

    @property
    def written_topics(self) -> list[str]:
        """Every topic that it writes to."""
        return sorted({topic.name for topic in self.writes} | {topic.dead for topic in self.consumes})


SERVICES: Final[Mapping[str, Grants]] = {
    "gateway": Grants(
        group_prefixes=("perdure-gateway-",),
        described_groups=(topics.INDEXER_GROUP,),
        reads=(topics.EVENTS, topics.STREAM),
        # Commands, and what an operator redrives: every topic that has dead letters.
        writes=tuple(topic for topic in topics.PRIMARY if topic.consumed),
        collections={
            documents.THREADS: CHANGE,
            documents.RUNS: CHANGE,
            documents.PAYLOADS: CHANGE,
            documents.NOTEBOOK: CHANGE,
            documents.WAITS: UPDATE,
            documents.SIGNALS: WRITE,
            documents.SCHEDULES: CHANGE,
            documents.GRAPHS: READ,
            documents.WORKERS: READ,
            documents.NODE_TIMINGS: READ,
            documents.DEAD_LETTERS: UPDATE,
            documents.REPLY_ADDRESSES: READ,
            batch_documents.BATCHES: CHANGE,
            batch_documents.BATCH_ITEMS: CHANGE,
            notices.SUBSCRIPTIONS: CHANGE,
            notices.DELIVERIES: WRITE,
            key_documents.API_KEYS: WRITE,
            key_documents.ENCRYPTION_KEYS: WRITE,
            session_documents.SESSIONS: CHANGE,
        },
        makes_indexes=True,
        indices={"perdure-*": SEARCHES},
        cluster=("cluster:monitor/main",),
    ),
    "agent-step": Grants(
        consumes=(topics.COMMANDS, topics.VERDICTS),
        groups=("perdure.agent-step", "perdure.agent-step.verdicts"),
        writes=(topics.COMMANDS, topics.EVENTS, topics.STREAM, topics.VALIDATIONS),
        collections={
            documents.THREADS: WRITE,
            documents.RUNS: CHANGE,
            documents.PAYLOADS: CHANGE,
            documents.NOTEBOOK: CHANGE,
            documents.WAITS: WRITE,
            documents.SIGNALS: UPDATE,
            documents.EFFECTS: WRITE,
            documents.GRAPHS: WRITE,
            documents.WORKERS: WRITE,
            documents.NODE_TIMINGS: WRITE,
            documents.DEAD_LETTERS: WRITE,
            documents.REPLY_ADDRESSES: WRITE,
            key_documents.ENCRYPTION_KEYS: WRITE,
        },
        makes_indexes=True,
    ),
    "validator": Grants(
        consumes=(topics.VALIDATIONS,),
        groups=("perdure.validator",),
        writes=(topics.VERDICTS,),
    ),
    "notifier": Grants(
        consumes=(topics.EVENTS, topics.NOTIFICATIONS),
        groups=("perdure.notifier", "perdure.notifier.notifications"),
        writes=(topics.EVENTS,),
        collections={
            documents.THREADS: READ,
            documents.RUNS: UPDATE,
            documents.PAYLOADS: READ,
            documents.NOTEBOOK: WRITE,
            documents.WAITS: READ,
            documents.DEAD_LETTERS: WRITE,
            documents.REPLY_ADDRESSES: WRITE,
            batch_documents.BATCHES: READ,
            notices.SUBSCRIPTIONS: UPDATE,
            notices.DELIVERIES: CHANGE,
            key_documents.ENCRYPTION_KEYS: WRITE,
        },
        makes_indexes=True,
    ),
    "indexer": Grants(
        consumes=(topics.EVENTS,),
        groups=(topics.INDEXER_GROUP,),
        described=(topics.EVENTS.name, topics.EVENTS.dead),
        indices={"perdure-*": INDEXES},
        cluster=(
            "cluster:monitor/main",
            "indices:admin/index_template/get",
            "indices:admin/index_template/put",
            "indices:data/read/mget",
            "indices:data/write/bulk",
        ),
    ),
    "scheduler": Grants(
        groups=("perdure.scheduler.dead-letters",),
        reads=topics.DEAD,
        writes=(topics.COMMANDS, topics.EVENTS, topics.VALIDATIONS, topics.NOTIFICATIONS),
        collections={
            documents.THREADS: CHANGE,
            documents.RUNS: CHANGE,
            documents.PAYLOADS: CHANGE,
            documents.NOTEBOOK: CHANGE,
            documents.WAITS: CHANGE,
            documents.SIGNALS: CHANGE,
            documents.EFFECTS: CHANGE,
            documents.SCHEDULES: CHANGE,
            documents.SCHEDULERS: CHANGE,
            documents.LEADERS: CHANGE,
            documents.WORKERS: CHANGE,
            documents.GRAPHS: READ,
            documents.NODE_TIMINGS: READ,
            documents.DEAD_LETTERS: WRITE,
            documents.REPLY_ADDRESSES: CHANGE,
            batch_documents.BATCHES: CHANGE,
            batch_documents.BATCH_ITEMS: CHANGE,
            notices.SUBSCRIPTIONS: CHANGE,
            notices.DELIVERIES: CHANGE,
            key_documents.ENCRYPTION_KEYS: WRITE,
        },
        makes_indexes=True,
    ),
    "archive": Grants(
        writes=(topics.COMMANDS, topics.EVENTS),
        collections={
            documents.THREADS: CHANGE,
            documents.RUNS: CHANGE,
            documents.PAYLOADS: CHANGE,
            documents.NOTEBOOK: CHANGE,
            documents.WAITS: CHANGE,
            documents.SIGNALS: CHANGE,
            documents.EFFECTS: CHANGE,
            documents.SCHEDULES: READ,
            documents.DEAD_LETTERS: READ,
            batch_documents.BATCHES: READ,
            notices.SUBSCRIPTIONS: CHANGE,
            notices.DELIVERIES: CHANGE,
            key_documents.ENCRYPTION_KEYS: WRITE,
        },
        indices={"perdure-*": FORGETS},
        cluster=("indices:data/write/bulk",),
    ),
    "rotation": Grants(
        collections={
            **dict.fromkeys(
                (
                    documents.NOTEBOOK,
                    documents.RUNS,
                    documents.THREADS,
                    documents.PAYLOADS,
                    documents.WAITS,
                    documents.SIGNALS,
                    documents.EFFECTS,
                    documents.SCHEDULES,
                    batch_documents.BATCHES,
                    batch_documents.BATCH_ITEMS,
                    notices.SUBSCRIPTIONS,
                    notices.DELIVERIES,
                    documents.DEAD_LETTERS,
                ),
                UPDATE,
            ),
            key_documents.ENCRYPTION_KEYS: CHANGE,
        },
    ),
    "operator": Grants(
        group_prefixes=("perdure.",),
        described_groups=(topics.INDEXER_GROUP,),
        reads=topics.ALL,
        described=tuple(topic.name for topic in topics.ALL),
        collections={
            documents.NOTEBOOK: READ,
            documents.RUNS: READ,
            documents.THREADS: READ,
            key_documents.API_KEYS: WRITE,
            key_documents.ENCRYPTION_KEYS: CHANGE,
            session_documents.SESSIONS: CHANGE,
        },
        makes_indexes=True,
        indices={"perdure-*": (*INDEXES, "indices:admin/delete")},
        cluster=(
            "cluster:monitor/*",
            "indices:admin/index_template/*",
            "indices:data/read/mget",
            "indices:data/write/bulk",
        ),
    ),
}
"""By service. ``operator``: whoever runs ``perdure topics apply``, ``perdure keys`` and ``perdure index``; ``archive``: whoever
runs ``perdure archive``; ``rotation``: whoever runs ``perdure keys rotate-encryption``."""
