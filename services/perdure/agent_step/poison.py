"""Poison runs: those that crash their workers again and again are parked, not tried for ever (ADR 10).

Contract: :meth:`Poison.verdict` is asked after a run was taken over and before anything of it is executed. It stores how often the
run crashed without progress, and gives the outcome that parks it at the limit.
"""

from __future__ import annotations

from perdure.agent_step.claims import Claimed, Claims
from perdure.agent_step.domain import Outcome
from perdure.agent_step.history import Beginning
from perdure.registry.crashes import counted
from perdure.schemas.documents import RunDocument, RunStatus
from perdure.schemas.events import POISON, ErrorInfo


class Poison:
    """The judgement on runs that crashed.

    Args:
        claims: Stores the count.
        limit: So many crashes without progress park a run.

    """

    def __init__(self, claims: Claims, limit: int) -> None:
        self._claims = claims
        self._limit = limit

    async def verdict(self, claimed: Claimed, beginning: Beginning) -> Outcome | None:
        """The outcome that parks this run; ``None``: execute it."""
        run = claimed.run
        if claimed.unreadable is not None:
            return _parked(beginning, f"its request cannot be read: {claimed.unreadable}")
        if not run.get("crashes"):
            return None
        crashes = counted(run, beginning.head)
        if crashes >= self._limit:
            return _parked(beginning, _story(run, crashes, beginning))
        await self._claims.count_anew(run, crashes, beginning.head)
        return None


def _parked(beginning: Beginning, why: str) -> Outcome:
    node = beginning.waiting_at[0] if len(beginning.waiting_at) == 1 else None
    message = (
        f"Parked: {why}. Mend the cause, then retry the run (`perdure retry`): it goes on from its last checkpoint."
    )
    error = ErrorInfo(type=POISON, message=message[:4000], node=node)
    return Outcome(RunStatus.ERROR, error, next=beginning.waiting_at, head=beginning.head)


def _story(run: RunDocument, crashes: int, beginning: Beginning) -> str:
    last = run["crash_log"][-1]
    where = f"at {', '.join(beginning.waiting_at)}" if beginning.waiting_at else "before its first superstep"
    how = last.get("error") or f"worker {last.get('worker')} died"
    return f"it crashed its worker {crashes} times {where} without any progress, last at {last['at']:%Y-%m-%d %H:%M:%S} UTC ({how})"
