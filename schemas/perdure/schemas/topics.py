"""The topics, their settings and their dead-letter companions: the one place that names them.

Created and changed only by ``perdure topics apply``; the brokers' automatic creation is off.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic and its settings.

    Attributes:
        name: The topic's name.
        partitions: How many partitions at least; never lowered.
        config: Kafka topic settings, as Kafka writes them.
        consumed: Whether one of our services decodes it; then it has a dead-letter topic. (The scheduler reads the dead-letter
            topics as they are: there is nothing in them that could not be read, so they have none of their own.)
        summary: What it carries.

    """

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)
    consumed: bool = True
    summary: str = ""

    @property
    def dead(self) -> str:
        """The name of its dead-letter topic."""
        return f"{self.name}.dead"


def _retention(ms: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(ms)}


COMMANDS = Topic(
    "perdure.commands",
    12,
    _retention(7 * DAY_MS) | {"max.message.bytes": "1048576"},
    summary="What agent-step is asked to do with a run.",
)
EVENTS = Topic(
    "perdure.events",
    12,
    _retention(7 * DAY_MS) | {"max.message.bytes": "4194304"},
    summary="Every state transition of every thread.",
)
VALIDATIONS = Topic(
    "perdure.validations", 6, _retention(7 * DAY_MS), summary="Premises to check right before a destructive act."
)
VERDICTS = Topic("perdure.verdicts", 6, _retention(7 * DAY_MS), summary="Whether the premises still hold.")
STREAM = Topic("perdure.stream", 6, _retention(HOUR_MS), consumed=False, summary="Output of nodes while they run.")
NOTIFICATIONS = Topic(
    "perdure.notifications",
    6,
    _retention(7 * DAY_MS),
    summary="What people are told that is no event of a thread: of batches.",
)

INDEXER_GROUP = "perdure-indexer"
"""The consumer group of the indexers: how far it is behind is how far search is behind."""

PRIMARY: tuple[Topic, ...] = (COMMANDS, EVENTS, VALIDATIONS, VERDICTS, STREAM, NOTIFICATIONS)

DEAD: tuple[Topic, ...] = tuple(
    Topic(
        topic.dead,
        1,
        _retention(30 * DAY_MS) | {"max.message.bytes": "8388608"},
        consumed=False,
        summary=f"Records of {topic.name} that could not be handled, as they were, and why.",
    )
    for topic in PRIMARY
    if topic.consumed
)

ALL: tuple[Topic, ...] = PRIMARY + DEAD
