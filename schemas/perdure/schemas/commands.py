"""Commands: imperative, addressed to agent-step through ``perdure.commands``. The receiver decides.

A command names a run and carries no payload that the run's document holds: the document is the authority, so a command
delivered twice, late or out of order changes nothing that the document does not allow.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from perdure.schemas.message import Message


class StartReason(StrEnum):
    """Why a run is to be started (again)."""

    REGISTERED = "registered"
    """A client asked for it."""
    ENQUEUED = "enqueued"
    """The run before it on its thread ended."""
    HANDED_OVER = "handed_over"
    """Its worker was told to stop and gave it back."""
    RECOVERED = "recovered"
    """Its worker's lease expired, or its worker lost it to a fence."""
    SWEPT = "swept"
    """Its first command was never published."""
    WOKEN = "woken"
    """What its thread waited for has happened."""
    RESUMED = "resumed"
    """Somebody asked that a parked run goes on."""


class StartRun(Message):
    """Claim the run and execute it from its last checkpoint. Repeatable: a claim that is not due does nothing."""

    TYPE: ClassVar[str] = "perdure.run.start"
    VERSION: ClassVar[int] = 1

    run_id: str
    reason: StartReason


class CancelRun(Message):
    """Stop the run at once; what it has checkpointed stays. The run's document already says ``cancel_requested_at``."""

    TYPE: ClassVar[str] = "perdure.run.cancel"
    VERSION: ClassVar[int] = 1

    run_id: str


class StreamRun(Message):
    """Tell what the run's nodes say while they run, on ``perdure.stream``, from the run's next superstep on.

    Repeatable: modes that are told already change nothing. A worker that does not execute the run keeps the command in memory for
    when it does, and stores it in the run's document where another worker executes the run: partitions move between workers, runs
    do not. That worker finds it there at its next heartbeat. Whoever reads on asks again when the run has ``started`` once more.
    """

    TYPE: ClassVar[str] = "perdure.run.stream"
    VERSION: ClassVar[int] = 1

    run_id: str
    modes: tuple[str, ...]
    """Stream modes; of them :data:`perdure.schemas.stream.EPHEMERAL_MODES` count."""
    subgraphs: bool = False
    """Whether to tell what subgraphs say, too."""


COMMANDS: dict[tuple[str, int], type[Message]] = {(c.TYPE, c.VERSION): c for c in (StartRun, CancelRun, StreamRun)}
