"""What each workload's numbers are called, which of them are compared, and which direction is better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One column."""

    key: str
    label: str
    higher: bool | None = None
    """Whether more is better; ``None``: not compared."""


_CPU = Metric("cpu_s_per_1000", "CPU s / 1,000", higher=False)
_BYTES = Metric("bytes_per_step", "bytes / step", higher=False)
_DRIVER = Metric("driver_cpu_s_per_1000", "(load generator)")
_OTHER = Metric("other_cores", "other cores busy")
_AGENTS = Metric("agents", "agents done")
_STEPS = (
    _AGENTS,
    Metric("steps_per_s", "steps/s", higher=True),
    _CPU,
    _DRIVER,
    Metric("e2e_p50_ms", "agent p50 ms"),
    Metric("e2e_p99_ms", "agent p99 ms"),
    Metric("ack_p50_ms", "ack p50 ms"),
    Metric("ack_p99_ms", "ack p99 ms"),
    Metric("searchable_p50_ms", "searchable p50 ms"),
    Metric("searchable_p99_ms", "searchable p99 ms"),
    _BYTES,
    Metric("journal_bytes_per_step", "journal bytes / step"),
    _OTHER,
)
METRICS: dict[str, tuple[Metric, ...]] = {
    "chain": _STEPS,
    "fanout": _STEPS,
    "batch": (Metric("agents_per_s", "agents/s", higher=True), *(one for one in _STEPS if one.key != "steps_per_s")),
    "hibernate": (
        _AGENTS,
        Metric("resumes_per_s", "resumes/s in a burst", higher=True),
        Metric("to_node_p50_ms", "to the next node p50 ms", higher=False),
        Metric("resume_p50_ms", "resume p50 ms", higher=False),
        Metric("resume_p99_ms", "resume p99 ms"),
        Metric("parks_per_s", "parked/s", higher=True),
        Metric("kib_per_parked", "KiB held per parked agent"),
        Metric("burst_p99_ms", "burst p99 ms"),
        _CPU,
        _DRIVER,
        _OTHER,
    ),
    "timers": (
        _AGENTS,
        Metric("late_p50_ms", "late p50 ms", higher=False),
        Metric("late_p99_ms", "late p99 ms", higher=False),
        Metric("late_max_ms", "late max ms"),
        Metric("early", "early"),
        _CPU,
        _DRIVER,
        _OTHER,
    ),
    "sleepers": (
        _AGENTS,
        Metric("late_p50_ms", "late p50 ms"),
        Metric("late_p99_ms", "late p99 ms"),
        Metric("late_max_ms", "late max ms"),
        Metric("early", "early"),
        Metric("service_growth_mib", "MiB more in the service that grew most"),
        Metric("store_growth_mib", "MiB more in the servers"),
        Metric("cores_asleep", "cores busy while all sleep"),
    ),
    "chat": (
        Metric("state_kib", "KiB of state reached"),
        Metric("steps_per_s", "steps/s", higher=True),
        Metric("steps_per_s_at_end", "steps/s in the last turn", higher=True),
        Metric("load_p50_ms", "load of the last state ms", higher=False),
        _BYTES,
        Metric("journal_bytes_per_step", "journal bytes / step"),
        _CPU,
        _DRIVER,
        _OTHER,
    ),
    "stream": (
        _AGENTS,
        Metric("first_token_p50_ms", "first word p50 ms", higher=False),
        Metric("first_token_p99_ms", "first word p99 ms", higher=False),
        Metric("token_p50_ms", "a word p50 ms", higher=False),
        Metric("token_p99_ms", "a word p99 ms"),
        Metric("wait_p50_ms", "wait for one step p50 ms", higher=False),
        Metric("wait_p99_ms", "wait for one step p99 ms"),
        _CPU,
        _DRIVER,
        _OTHER,
    ),
    "soak": (
        Metric("minutes", "minutes"),
        Metric("steps", "steps"),
        Metric("steps_per_s", "steps/s"),
        _CPU,
        Metric("cpu_growth", "growth of CPU / step"),
        Metric("latency_growth", "growth of agent p50"),
        Metric("memory_growth", "growth of memory"),
        Metric("late_memory_growth", "in the second half"),
    ),
}
"""By kind of workload, in the order of the columns."""

TITLES = {
    "chain-1k": "W1: chain of five durable steps, 1 KiB of state",
    "chain-64k": "W1: chain of five durable steps, 64 KiB of state, the whole state is each step's result",
    "chain-64k-message": "W1: chain of five durable steps, 64 KiB of state, a step's result is its message",
    "hibernate": "W2: hibernate and resume, 1 KiB of state (CPU: per 1,000 resumes of the burst)",
    "timers": "W3: timers that are due at one instant (CPU: per 1,000 agents, start to end)",
    "sleepers": "W3: 10,000 agents asleep at once, started and due 100 a second",
    "chat": "W4: one agent whose history grows by messages of 1 KiB",
    "fanout": "W5: 100 parallel branches (a branch counts as a step)",
    "batch": "W6: a batch of 10,000 agents of one step, started one by one over HTTP",
    "stream": "W8: 50 streams at a time of 60 words, 25 ms apart (CPU: per 1,000 words), then single runs of one step",
    "soak": "W7: soak (growth: by least squares, from the first window to the last, as a share of the mean)",
}
