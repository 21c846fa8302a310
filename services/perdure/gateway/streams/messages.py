"""The messages that a superstep wrote, whole: in place of chunks that a reader did not get.

Contract: pure. As LangGraph's ``stream_mode="messages"``, a message counts that a task wrote at the top of a channel's value or in
a list there, once by its id, and not one that the task was given. A message without an id has the id that the channel gave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from perdure.gateway.streams.planned import Point, Work, written_by
from perdure.gateway.streams.telling import Told, told

Message = Mapping[str, Any]

_FIELDS: Final = frozenset({"content", "type", "additional_kwargs", "response_metadata"})
MODES: Final = frozenset({"messages", "messages-tuple"})


def is_message(value: Any) -> bool:
    """Whether a stored value is a message."""
    return isinstance(value, dict) and value.keys() >= _FIELDS


def messages_in(value: Any) -> Iterator[Message]:
    """The messages at the top of a value, or in a list there."""
    if is_message(value):
        yield value
    elif isinstance(value, list):
        yield from (one for one in value if is_message(one))


def ids_of(values: Any) -> set[str]:
    """Ids of the messages of a state."""
    channels = values.values() if isinstance(values, dict) and not is_message(values) else [values]
    return {one["id"] for channel in channels for one in messages_in(channel) if one.get("id")}


def whole_messages(
    work: Work, before: Point, after: Point | None, seen: set[str], run: Mapping[str, Any]
) -> list[Told]:
    """The messages that one task wrote; their ids are added to ``seen``.

    Args:
        work: What became of the task.
        before: The checkpoint that planned it.
        after: The checkpoint of its superstep, if it ended.
        seen: Ids of the messages that were told already, or that the task was given.
        run: Ids that messages carry in their metadata.

    """
    found: list[Told] = []
    for channel, value in written_by(work):
        for message in _given_ids(messages_in(value), channel, before, after):
            if (name := message.get("id")) is None or name in seen:
                continue
            seen.add(name)
            metadata = metadata_of(work, before, run)
            found.append(told("messages-tuple", before.ns, [message, metadata], event="messages", whole=True))
            shown = {name: {"metadata": metadata}}
            found.append(told("messages", before.ns, shown, event="messages/metadata", whole=True))
            found.append(told("messages", before.ns, [message], event="messages/complete", whole=True))
    return found


def metadata_of(work: Work, before: Point, run: Mapping[str, Any]) -> dict[str, Any]:
    """What LangGraph says of the task that wrote a message."""
    place = f"{before.ns}|{work.name}" if before.ns else work.name
    return {
        **run,
        "langgraph_step": before.step + 1,
        "langgraph_node": work.name,
        "langgraph_triggers": work.triggers,
        "langgraph_path": work.path,
        "langgraph_checkpoint_ns": f"{place}:{work.id}",
        "checkpoint_ns": f"{place}:{work.id}",
    }


def _given_ids(messages: Iterable[Message], channel: str, before: Point, after: Point | None) -> Iterator[Message]:
    """The messages; one without an id with that of the new message of the channel that is otherwise the same."""
    fresh: list[Message] | None = None
    for message in messages:
        if message.get("id") is not None or after is None:
            yield message
            continue
        if fresh is None:
            old = ids_of(before.channels.get(channel))
            fresh = [one for one in messages_in(after.channels.get(channel)) if one.get("id") not in old]
        same = next((one for one in fresh if {**one, "id": None} == {**message, "id": None}), None)
        if same is not None:
            fresh.remove(same)
        yield same or message
