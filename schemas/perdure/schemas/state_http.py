"""The HTTP contract of changing states: one update, and the supersteps of a new thread (ADR 33)."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, Field

from perdure.schemas.bodies import Body, NodeName
from perdure.schemas.http import Checkpoint, CheckpointId, CheckpointRef, Command

SUPERSTEPS_LIMIT: Final = 1_000


class StateUpdate(Body):
    """Change a thread's state, as if a node had written it."""

    values: Any = Field(
        default=None,
        description="What the node is to have written; null with `as_node` `__end__` plans no node any more.",
    )
    as_node: NodeName | None = Field(
        default=None, description="The node; when absent the one that wrote last. `__end__`: nothing runs next."
    )
    checkpoint: CheckpointRef | None = Field(
        default=None,
        description="The checkpoint to change, also of a subgraph; when absent the newest. The new one is its child.",
    )
    checkpoint_id: CheckpointId | None = Field(default=None, description="The same as `checkpoint.checkpoint_id`.")


class SuperstepUpdate(Body):
    """What one node is to have written."""

    values: Any = None
    command: Command | None = Field(default=None, description="In place of `values`.")
    as_node: NodeName


class Superstep(Body):
    """Updates that are made together, and give one state."""

    updates: list[SuperstepUpdate] = Field(min_length=1)


class StateUpdated(BaseModel):
    """The checkpoint that an update made."""

    checkpoint: Checkpoint
    configurable: dict[str, Any] = Field(description="The same as `checkpoint`.")
    checkpoint_id: str = Field(description="The same as `checkpoint.checkpoint_id`.")
