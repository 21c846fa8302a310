"""The promise of streams: who comes back after every break is told everything once. Pure."""

from __future__ import annotations

import itertools

from tests.chaos.evidence import Evidence, Found, checkpoints_of, ends_of
from tests.chaos.findings import Findings
from tests.chaos.readers import place


def streams_complete(evidence: Evidence, found: Findings) -> None:
    """A reader who comes back after every break was told each superstep and each end of its thread once, in their order."""
    for thread, streamed in evidence.streams.items():
        entries = evidence.history.get(thread, [])
        durable = [place(one) for one, _ in streamed.events if "+" not in one]
        found.hold(all(a < b for a, b in itertools.pairwise(durable)), thread, "events came twice or out of order")
        told = [place(one)[0] for one, event in streamed.events if event == "values"]
        supersteps = [one["seq"] for one in checkpoints_of(entries) if one["ns"] == "" and _changed(one)]
        missing = sorted(set(supersteps) - set(told))
        found.hold(not missing, thread, "values of the supersteps {} were not told", missing[:5])
        ends = [one["seq"] for one in ends_of(entries)]
        seen = [place(one)[0] for one in streamed.ends]
        found.hold(ends == seen, thread, "runs ended at {}, told were {}", ends, seen)


def _changed(checkpoint: Found) -> bool:
    """Whether a superstep changed the state: LangGraph tells no values of one that did not."""
    event = checkpoint.get("ev") or {}
    return event.get("source") == "loop" and bool(event.get("channels"))


def last_ends(evidence: Evidence) -> dict[str, int]:
    """Of each thread, the sequence number of the end of its last run."""
    found = {thread: ends_of(entries) for thread, entries in evidence.history.items()}
    return {thread: ends[-1]["seq"] for thread, ends in found.items() if ends}
