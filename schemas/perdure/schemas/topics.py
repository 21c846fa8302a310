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
        consumed: Whether one of our services reads it; then it has a dead-letter topic.
    """

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)
    consumed: bool = True

    @property
    def dead(self) -> str:
        """The name of its dead-letter topic."""
        return f"{self.name}.dead"


def _retention(ms: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(ms)}


COMMANDS = Topic("perdure.commands", 12, _retention(7 * DAY_MS) | {"max.message.bytes": "1048576"})
EVENTS = Topic("perdure.events", 12, _retention(7 * DAY_MS) | {"max.message.bytes": "4194304"})
VALIDATIONS = Topic("perdure.validations", 6, _retention(7 * DAY_MS))
VERDICTS = Topic("perdure.verdicts", 6, _retention(7 * DAY_MS))
STREAM = Topic("perdure.stream", 6, _retention(HOUR_MS), consumed=False)
REPLIES = Topic("perdure.replies", 6, _retention(HOUR_MS))
NOTIFICATIONS = Topic("perdure.notifications", 6, _retention(7 * DAY_MS))

PRIMARY: tuple[Topic, ...] = (COMMANDS, EVENTS, VALIDATIONS, VERDICTS, STREAM, REPLIES, NOTIFICATIONS)

DEAD: tuple[Topic, ...] = tuple(
    Topic(topic.dead, 1, _retention(30 * DAY_MS) | {"max.message.bytes": "8388608"}, consumed=False)
    for topic in PRIMARY
    if topic.consumed
)

ALL: tuple[Topic, ...] = PRIMARY + DEAD
