"""What Perdure sets itself, as data: each is met or missed by the median of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """One bound: on ours / the peer's where a peer is named, else on our own number."""

    words: str
    workload: str
    metric: str
    bound: float
    higher: bool
    """Whether the value must be at least the bound, or at most."""
    peer: str | None = None

    def met(self, value: float) -> bool:
        """Whether a value keeps it."""
        return value >= self.bound if self.higher else value <= self.bound


def _times(factor: float, workload: str, metric: str, peer: str, words: str) -> Budget:
    return Budget(words, workload, metric, factor, higher=True, peer=peer)


BUDGETS = (
    _times(1.2, "chain-1k", "steps_per_s", "restate", "1.2 times Restate in steps/s at 1 KiB"),
    _times(4, "chain-1k", "steps_per_s", "langgraph_postgres", "4 times LangGraph + PostgresSaver in steps/s at 1 KiB"),
    _times(3, "chain-64k", "steps_per_s", "langgraph_postgres", "3 times LangGraph + PostgresSaver at 64 KiB"),
    _times(3, "chain-64k", "steps_per_s", "langgraph_mongodb", "3 times LangGraph + MongoDBSaver at 64 KiB"),
    _times(3, "chain-64k", "steps_per_s", "dbos", "3 times DBOS at 64 KiB, full state"),
    _times(3, "chain-64k", "steps_per_s", "restate", "3 times Restate at 64 KiB, full state"),
    _times(3, "chain-64k", "steps_per_s", "temporal", "3 times Temporal at 64 KiB, full state"),
    _times(3, "chain-64k", "steps_per_s", "aegra", "3 times Aegra at 64 KiB"),
    _times(
        10, "chat", "steps_per_s_at_end", "langgraph_postgres", "10 times LangGraph + PostgresSaver at 2 MiB of chat"
    ),
    Budget("a step of the chat stores less than 1 % of 2 MiB", "chat", "bytes_per_step", 20_971, higher=False),
    Budget("the answer to a start within 25 ms (p99), 64 clients", "chain-1k", "ack_p99_ms", 25, higher=False),
    Budget(
        "a step is searchable within 2 s (p99), 200 agents open", "chain-1k", "searchable_p99_ms", 2000, higher=False
    ),
    Budget("one resume to its next node within 15 ms (p50)", "hibernate", "to_node_p50_ms", 15, higher=False),
    Budget("500 resumes/s in a burst", "hibernate", "resumes_per_s", 500, higher=True),
    Budget("timers due at one instant within 500 ms (p99)", "timers", "late_p99_ms", 500, higher=False),
    Budget("10,000 asleep: no service holds 1 MiB more", "sleepers", "service_growth_mib", 1, higher=False),
    Budget("their wakes within 1 s (p99)", "sleepers", "late_p99_ms", 1000, higher=False),
    Budget("the first word of a stream within 25 ms (p50), 50 open", "stream", "first_token_p50_ms", 25, higher=False),
    Budget(
        "the first word of a stream within 100 ms (p99), 50 open", "stream", "first_token_p99_ms", 100, higher=False
    ),
    Budget("a run of one step by runs/wait within 40 ms (p50)", "stream", "wait_p50_ms", 40, higher=False),
    Budget("CPU a step grows by less than 10 % in the soak", "soak", "cpu_growth", 0.1, higher=False),
)
