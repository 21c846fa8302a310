"""What the worker works with, as the composition root makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perdure.agent_step.chunks import Streams
from perdure.agent_step.claims import Claims
from perdure.agent_step.endings import Endings
from perdure.agent_step.graphs import ServedGraph
from perdure.agent_step.pace import Pace
from perdure.agent_step.poison import Poison
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.kafka.producer import Producer
from perdure.checkpoint import PerdureSaver
from perdure.sdk.context import SdkContext


@dataclass(frozen=True, slots=True)
class Ports:
    """What the worker works with."""

    saver: PerdureSaver
    runs: GroupCommit
    claims: Claims
    endings: Endings
    producer: Producer
    graphs: Mapping[str, ServedGraph]
    paces: Mapping[str, Pace]
    """By graph id."""
    poison: Poison
    sdk: SdkContext
    streams: Streams
