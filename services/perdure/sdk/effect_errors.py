"""What the effect ledger refuses or reports.

::

    EffectError                 (perdure.sdk.errors)
    ├── EffectMisused           the call itself is wrong: a mistake in the node
    ├── KeyReused               the key stands for another action already
    ├── GuardError              a guarded effect may not run
    │   ├── GuardMissing        no verdict or approval was given, or it is not there (yet)
    │   ├── GuardRefused        the verdict is not "proceed", the answer does not approve
    │   ├── GuardMismatch       it is for another action, another thread, or of another kind
    │   ├── GuardExpired        it was good once
    │   └── GuardUsed           another effect has used it up
    ├── EffectTimeout           the function did not end in time; whether it acted is unknown
    ├── ReceiptUnstorable       the function acted, and what it returned cannot be kept
    └── RunLost                 this process does not own the run any more: nothing may be done

Beside it: :class:`EffectNotDone`, which the function itself raises.
"""

from __future__ import annotations

from perdure.sdk.errors import EffectError, SdkError


class EffectNotDone(SdkError):
    """To be raised by an effect's function: it certainly did not happen, and will not; it may be tried again."""


class EffectMisused(EffectError, ValueError):
    """The call of ``effect`` is wrong: change the node."""


class KeyReused(EffectError):
    """The key was used for another action in this thread.

    ``recorded`` and ``given`` are the digests (``None``: no action).
    """

    def __init__(self, where: str, recorded: str | None, given: str | None) -> None:
        super().__init__(
            f"{where} was recorded for action {recorded or '(none)'} and is now called with action {given or '(none)'}: "
            "choose a key that is unique per action in a thread and identical on every re-run, e.g. mail-2026-11-30"
        )
        self.recorded = recorded
        self.given = given


class GuardError(EffectError):
    """A guarded effect may not run under what was given.

    ``guard`` is the id of the verdict or approval.
    """

    def __init__(self, message: str, guard: str | None = None) -> None:
        super().__init__(message)
        self.guard = guard


class GuardMissing(GuardError):
    """Nothing was given, or it does not exist."""


class GuardRefused(GuardError):
    """The verdict says no, or the answer is no approval."""


class GuardMismatch(GuardError):
    """It is for something else."""


class GuardExpired(GuardError):
    """It was good once: validate or ask again."""


class GuardUsed(GuardError):
    """It is single use, and another effect has it.

    ``used_by`` is that effect's idempotency key.
    """

    def __init__(self, message: str, guard: str, used_by: str) -> None:
        super().__init__(message, guard)
        self.used_by = used_by


class EffectTimeout(EffectError, TimeoutError):
    """The function did not end in time."""


class ReceiptUnstorable(EffectError):
    """It happened, and will not be done again; its receipt is lost."""


class RunLost(EffectError):
    """Another worker owns the run."""
