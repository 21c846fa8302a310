"""Chains: the runs by which an agent continues after each wait, resume and retry, as clients follow them.

Contract: pure. A chain is one first run and every run of its thread that continues it (``first_run_id`` in their documents). Runs
of a chain execute one after the other, so that each has at most one successor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from perdure.registry.runs import first_run_of, is_superseded
from perdure.schemas.documents import RunStatus

Document = dict[str, Any]

CONTINUED = frozenset({RunStatus.INTERRUPTED, RunStatus.ERROR, RunStatus.TIMEOUT, RunStatus.CANCELLED})
"""Statuses of runs that another run may continue."""


def chain_view(run: Mapping[str, Any], later: Iterable[Mapping[str, Any]] = ()) -> Document:
    """Where a run comes from and leads to.

    Args:
        run: Its document.
        later: Documents of the thread's runs that were registered after it, or of more.

    Returns:
        ``first_run_id``; ``continued_by``: the next run of the chain, or ``None``; ``last_run_id`` and ``last_run_status``: of the
        newest run of the chain, ``run`` itself where nothing continues it.

    """
    first = first_run_of(run)
    chain = (one for one in later if first_run_of(one) == first and not is_superseded(one))
    after = [one for one in chain if _place(one) > _place(run)]
    following = min(after, key=_place, default=None) if run["status"] in CONTINUED else None
    last = max(after, key=_place, default=run) if following is not None else run
    return {
        "first_run_id": first,
        "continued_by": following["_id"] if following is not None else None,
        "last_run_id": last["_id"],
        "last_run_status": last["status"],
    }


def _place(run: Mapping[str, Any]) -> tuple[bool, int, str]:
    """Ended runs in the order of their thread's history, then those that have not ended, by id (UUIDv7: by time)."""
    return ("first_seq" not in run, run.get("first_seq", 0), run["_id"])
