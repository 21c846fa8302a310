"""Why a state update is refused (ADR 33): ``ErrorInfo.type`` where no exception of the graph says it."""

from __future__ import annotations

from typing import Final

MOVED_ON: Final = "perdure.moved_on"
"""Another run wrote to the thread after the client asked."""
NO_CHECKPOINT: Final = "perdure.no_checkpoint"
"""The checkpoint to update is not there."""
CANCELLED: Final = "perdure.cancelled"
"""Somebody cancelled the update, or a run that ends others (ADR 32) did."""
