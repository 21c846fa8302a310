"""Prometheus metrics of agent-step."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

OPEN = Gauge("perdure_agent_step_open_runs", "Runs that this worker executes at this moment")
ENDED = Counter("perdure_agent_step_runs_ended", "Runs that ended here, by status", ["status"])
CHECKPOINTS = Counter("perdure_agent_step_checkpoints", "Checkpoints written by this worker")
HANDED_OVER = Counter("perdure_agent_step_runs_handed_over", "Runs given to other workers at a superstep's end")
PARKED = Counter("perdure_agent_step_runs_parked", "Runs parked as poison")
LOST = Counter("perdure_agent_step_runs_lost", "Runs found to have another owner")
LEASES_LOST = Counter("perdure_agent_step_leases_lost", "How often this worker was declared dead while it lived")
NOT_EXECUTED = Gauge(
    "perdure_agent_step_runs_not_executed", "Runs that the database says this worker owns and that it does not execute"
)
IDLE = Gauge(
    "perdure_agent_step_runs_idle", "Runs found without progress and without a node at work at the last heartbeat"
)
GIVEN_BACK = Counter(
    "perdure_agent_step_runs_given_back", "Owned runs that were given back, by why: not_executed, idle", ["reason"]
)
STREAMED = Counter("perdure_agent_step_stream_chunks", "Chunks of streams that were given to Kafka")
STREAM_DROPPED = Counter(
    "perdure_agent_step_stream_chunks_dropped",
    "Chunks of streams that were not sent, by why: full (too much waits for Kafka), large, refused",
    ["reason"],
)
