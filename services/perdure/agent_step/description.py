"""What the events of one run say about each change of its state: nodes, channels, text, duration, and when the next is due.

Contract: :class:`Description` is told of every checkpoint of the run, in the order of each namespace. It does no I/O. The
dictionaries that it returns are the ``ev`` of history entries (``perdure.schemas.outbox``).

Outside: storing and publishing (``perdure.agent_step.execution``), and the rules (``text``, ``pace``, ``domain``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata

from perdure.agent_step.domain import START, nodes_next, nodes_ran
from perdure.agent_step.pace import Pace
from perdure.agent_step.text import ChangedText, is_internal
from perdure.checkpoint.shown import visible

ROOT: Final = "__root__"
"""The channel of a graph whose state is not a dictionary."""


class Description:
    """The changes of one run's state.

    Args:
        payload: What the run was started with.
        pace: How long the graph's supersteps take.

    """

    def __init__(self, payload: Mapping[str, Any], pace: Pace) -> None:
        self._payload = payload
        self._pace = pace
        self._text = ChangedText()
        self._put_at: dict[str, float] = {}
        self._expected: dict[str, datetime] = {}
        self.planned: dict[str, tuple[str, ...]] = {}
        """By namespace, the nodes that run after its newest checkpoint."""

    def of_checkpoint(
        self, ns: str, checkpoint: Checkpoint, metadata: CheckpointMetadata, _config: RunnableConfig
    ) -> dict[str, Any]:
        """Describe a checkpoint that is about to be stored."""
        now = time.perf_counter()
        before = self._put_at.get(ns)
        self._put_at[ns] = now
        values = checkpoint["channel_values"]
        source = metadata.get("source", "loop")
        changed = [c for c in checkpoint.get("updated_channels") or () if not is_internal(c)]
        if source == "fork" and not ns:
            changed = self.updated_channels()  # a command's update of an earlier checkpoint is in the fork itself
        text, truncated = self._text.of(ns, {c: visible(values[c]) for c in changed if c in values}, changed)
        ran = self.planned.get(ns) if source == "loop" else ()
        planned = self.planned[ns] = nodes_next(checkpoint)
        event: dict[str, Any] = {
            "source": source,
            "nodes": [n for n in (nodes_ran(checkpoint) if ran is None else ran) if n != START],
            "next": list(planned),
            "channels": changed,
            "text": text,
        }
        if truncated:
            event["text_truncated"] = True
        if before is not None:
            event["duration_ms"] = duration_ms = round((now - before) * 1000, 3)
            self._pace.saw(_within(ns, event["nodes"]), duration_ms)
        event["expected_by"] = self._expected_by(ns, planned)
        return event

    def of_update(self, shown: Mapping[str, Any], planned: Sequence[str]) -> dict[str, Any]:
        """Describe what the run's command made of the root graph's state.

        Args:
            shown: The channels that the command updated, with their values after it.
            planned: The nodes that run next.

        """
        text, truncated = self._text.of("", shown, shown)
        event: dict[str, Any] = {
            "source": "update",
            "next": list(planned),
            "channels": [c for c in shown if c != ROOT],
            "text": text,
            "expected_by": self._expected_by("", planned),
        }
        if truncated:
            event["text_truncated"] = True
        return event

    def updated_channels(self) -> list[str]:
        """The channels that the run's command updates."""
        update = (self._payload.get("command") or {}).get("update")
        if isinstance(update, dict):
            return [c for c in update if not is_internal(c)]
        return [] if update is None else [ROOT]

    def _expected_by(self, ns: str, planned: Sequence[str]) -> datetime:
        """By when the thread's next checkpoint should be there: the latest of all that is under way.

        A subgraph that works is progress of the node that it is in.
        """
        if ns and not planned:
            self._expected.pop(ns, None)
        else:
            self._expected[ns] = self._pace.by(_within(ns, planned))
        return max(self._expected.values(), default=self._pace.by(()))


def _within(ns: str, nodes: Sequence[str]) -> Sequence[str]:
    """Names of a subgraph's nodes, with the nodes that it is in: ``outer|inner``."""
    if not ns:
        return nodes
    path = "|".join(part.partition(":")[0] for part in ns.split("|"))
    return [f"{path}|{node}" for node in nodes]
