"""Which messages travel on which topic: the table that generated documents and golden files are checked against."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.schemas import topics
from perdure.schemas.batches import NOTIFICATIONS
from perdure.schemas.commands import COMMANDS
from perdure.schemas.events import EVENTS
from perdure.schemas.message import Message
from perdure.schemas.stream import STREAM
from perdure.schemas.validation import VALIDATIONS, VERDICTS

Types = Mapping[tuple[str, int], type[Message]]

CONTENTS: dict[str, Types] = {
    topics.COMMANDS.name: COMMANDS,
    topics.EVENTS.name: EVENTS,
    topics.VALIDATIONS.name: VALIDATIONS,
    topics.VERDICTS.name: VERDICTS,
    topics.NOTIFICATIONS.name: NOTIFICATIONS,
    topics.STREAM.name: STREAM,
}
"""By topic name; a topic that is not here carries nothing yet."""

ALL: dict[tuple[str, int], type[Message]] = {key: cls for types in CONTENTS.values() for key, cls in types.items()}
"""Every message that this version of the code reads, by (type, version)."""


def file_stem(message: type[Message]) -> str:
    """``<type>.v<version>``: how files about a message are named. Golden files are stored by it; never change it."""
    return f"{message.TYPE}.v{message.VERSION}"
