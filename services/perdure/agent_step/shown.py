"""What a worker tells the saver about values that a checkpoint does not hold (ADR 22).

Contract: the channel objects are here and nowhere else, so the worker says what they show; the saver stores it, and readers
that have no graph read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph._internal._typing import MISSING
from langgraph.channels.base import BaseChannel
from langgraph.channels.delta import DeltaChannel

from perdure.agent_step.text import is_internal
from perdure.checkpoint.shown import Shown


def show_delta_channels() -> None:
    """Have every DeltaChannel of this process give its value to the checkpoints that it leaves out of.

    LangGraph asks each live channel for what a checkpoint stores of it; there is no other place where the value of each step
    can be had. It is done on the class, so that graphs that nodes and tools call are covered too.
    """
    DeltaChannel.checkpoint = shown_checkpoint  # type: ignore[assignment, method-assign]


def shown_checkpoint(channel: DeltaChannel[Any]) -> Any:
    """``DeltaChannel.checkpoint`` of a worker: the value, marked as not part of the checkpoint."""
    return MISSING if channel.value is MISSING else Shown(channel.value)


def initial_values(channels: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a graph's channels have before anything is written to them."""
    empty = {
        name: spec.from_checkpoint(MISSING)
        for name, spec in channels.items()
        if isinstance(spec, BaseChannel) and not is_internal(name)
    }
    return {name: channel.get() for name, channel in empty.items() if channel.is_available()}
