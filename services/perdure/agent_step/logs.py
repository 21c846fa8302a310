"""What a run leaves in the worker's log: ``run.started``, ``run.ended``, and its ids in every record that is made meanwhile.

Contract: records made by the graph's nodes, with ``logging`` or structlog, carry ``thread_id``, ``run_id``, ``graph`` and ``node``:
these travel by contextvars, into sync nodes and ``asyncio.to_thread`` too, not into threads that a node starts by other means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables.config import var_child_runnable_config

from perdure.agent_step.domain import Outcome, traceback_of
from perdure.chassis.telemetry import add_to_logs, logger
from perdure.schemas.documents import RunDocument

log = logger(__name__)


def log_as(run: RunDocument) -> None:
    """Add the run's ids, and the node where one is executing, to every record of the current context."""
    ids = {"thread_id": run["thread_id"], "run_id": run["_id"], "graph": run["graph_id"]}

    def fields() -> Mapping[str, Any]:
        node = executing_node()
        return {**ids, "node": node} if node is not None else ids

    add_to_logs(fields)


def executing_node() -> str | None:
    """The node that the current context executes, by the config that LangGraph hands to it; the innermost in a subgraph."""
    config = var_child_runnable_config.get()
    node = (config or {}).get("metadata", {}).get("langgraph_node")
    return node if isinstance(node, str) else None


def log_started(run: RunDocument, next_nodes: tuple[str, ...]) -> None:
    """Say that this worker executes the run; ``attempt`` counts the workers that began it."""
    log.info("run.started", attempt=run["epoch"], next=list(next_nodes))


def log_ended(run: RunDocument, outcome: Outcome, duration_s: float) -> None:
    """Say how the run ended, once that is durable: a failure at level error, with its node and the traceback of the user's code."""
    fields: dict[str, Any] = {
        "status": outcome.status.value,
        "duration_ms": round(duration_s * 1000, 1),
        "steps": outcome.steps,
        "attempt": run["epoch"],
    }
    if outcome.next:
        fields["next"] = list(outcome.next)
    if outcome.update is not None:
        refused = outcome.refused
        log.info(
            "state.refused" if refused else "state.updated",
            **fields,
            **({"why": refused["message"]} if refused else {}),
        )
        return
    if outcome.error is None:
        log.info("run.ended", **fields)
        return
    fields |= {"node": outcome.error.node, "error": f"{outcome.error.type}: {outcome.error.message}"}
    if outcome.exception is not None:
        fields["exception"] = traceback_of(outcome.exception)
    log.error("run.ended", **fields)
