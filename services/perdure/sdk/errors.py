"""What the SDK raises into nodes.

::

    SdkError
    ├── WaitError           a wait that cannot be waited for: a mistake in the node
    ├── OutsidePerdure      the node does not run under agent-step
    └── EffectError         see perdure.sdk.effect_errors
"""

from __future__ import annotations


class SdkError(Exception):
    """Base of all errors of the SDK."""


class WaitError(SdkError, ValueError):
    """A wait that cannot be waited for: too long, too large, without a time zone, malformed."""


class OutsidePerdure(SdkError, RuntimeError):
    """What was called needs Perdure's store and history: run the graph under agent-step."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} works only in a node that agent-step executes")


class EffectError(SdkError):
    """Base of what the effect ledger refuses."""
