"""The visible value of a DeltaChannel, stored beside the checkpoints that do not hold it (ADR 22).

LangGraph leaves a DeltaChannel's value out of most checkpoints and rebuilds it from the writes of all ancestors, with the
channel's reducer. A reader that has no graph cannot. A worker therefore puts the value into the checkpoint as
:class:`Shown`, and the saver stores it in the document's body under a name of its own.

Contract: what LangGraph loads (``get_tuple``, ``list``, delta histories) never contains a shown value. Items are compared by
identity, because a DeltaChannel's value is by definition what its writes add up to: LangGraph itself does not keep a change
that is made in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph.checkpoint.base import ChannelVersions, Checkpoint
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from perdure.checkpoint.codec import Codec
from perdure.checkpoint.pages import Page
from perdure.checkpoint.sealing import Bundle, encode_value
from perdure.checkpoint.values import Encoded


class Shown(_DeltaSnapshot):
    """The value of a DeltaChannel at a checkpoint that stores the change only.

    It is a snapshot, so that another saver that is given one stores what LangGraph can load.
    """

    __slots__ = ()


def visible(value: Any) -> Any:
    """A channel's value as users of the graph know it."""
    return value.value if isinstance(value, _DeltaSnapshot) else value


def split(checkpoint: Checkpoint) -> tuple[Checkpoint, dict[str, Any]]:
    """The checkpoint as LangGraph would store it, and the shown values by channel."""
    held = checkpoint["channel_values"]
    shown = {name: value.value for name, value in held.items() if type(value) is Shown}
    if not shown:
        return checkpoint, shown
    rest = {name: value for name, value in held.items() if name not in shown}
    return {**checkpoint, "channel_values": rest}, shown


def before_first_write(initial: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """Of the values that channels have before their first write, those of channels that nothing was written to."""
    versions = checkpoint["channel_versions"]
    return {name: value for name, value in initial.items() if name not in versions}


def encode_shown(
    codec: Codec,
    bundle: Bundle,
    page: Page,
    shown: Mapping[str, Any],
    *,
    before: Page | None,
    recent: Page | None,
    new_versions: ChannelVersions,
) -> None:
    """Encode shown values into ``page.shown``: only the blocks whose items changed since ``recent``.

    A channel that did not change keeps what its parent ``before`` shows.
    """
    for name, value in shown.items():
        if name in page.values:
            continue  # a snapshot that an earlier checkpoint took, and the channel did not change since
        inherited = before.shown.get(name) if before is not None and name not in new_versions else None
        if inherited is not None and before is not None and before.versions.get(name) == page.versions.get(name):
            page.shown[name] = inherited
            continue
        encoded = encode_value(codec, bundle.thread, name, value, known_blocks(recent, name), shallow=True)
        bundle.add(encoded)
        page.shown[name] = encoded


def known_blocks(recent: Page | None, name: str) -> Encoded | None:
    """The newest encoding of a DeltaChannel's value whose items are in memory."""
    if recent is None:
        return None
    if not recent.shown and not recent.seeds:
        return recent.values.get(name)
    for encoded in (recent.shown.get(name), recent.values.get(name), recent.seeds.get(name)):
        if encoded is not None and encoded.order:
            return encoded
    return None
