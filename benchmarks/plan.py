"""What is run: the workloads with their sizes, and the order of the sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OURS = "perdure"
PEERS = ("langgraph_postgres", "langgraph_mongodb", "dbos", "restate", "temporal", "aegra", "langgraph_dev")
LIMIT_S = 240

FULL: dict[str, dict[str, Any]] = {
    "chain-1k": {"workload": "chain", "agents": 1000, "warmup": 1000, "state_bytes": 1024, "seconds": 10, "rounds": 3},
    "chain-64k": {
        "workload": "chain",
        "agents": 300,
        "warmup": 30,
        "state_bytes": 65536,
        "full_state": True,
        "seconds": 10,
        "rounds": 3,
    },
    "chain-64k-message": {
        "workload": "chain",
        "agents": 300,
        "warmup": 30,
        "state_bytes": 65536,
        "seconds": 8,
        "rounds": 1,
    },
    "hibernate": {"workload": "hibernate", "agents": 600, "warmup": 600, "singly": 100, "seconds": 12, "rounds": 3},
    "timers": {"workload": "timers", "agents": 2000, "warmup": 100, "seconds": 15, "rounds": 2},
    "sleepers": {
        "workload": "sleepers",
        "agents": 10_000,
        "rate": 100,
        "warmup": 2000,
        "limit_s": 600,
        "rounds": 1,
        "ours_only": True,
    },
    "chat": {"workload": "chat", "messages": 2048, "turn": 64, "loads": 5, "seconds": 45, "rounds": 2},
    "fanout": {"workload": "fanout", "agents": 60, "open": 8, "warmup": 4, "width": 100, "seconds": 8, "rounds": 2},
    "batch": {"workload": "batch", "agents": 10_000, "warmup": 50, "seconds": 20, "rounds": 1},
    "stream": {
        "workload": "stream",
        "agents": 500,
        "open": 50,
        "warmup": 50,
        "words": 60,
        "spread_s": 1.5,
        "waits": 200,
        "seconds": 15,
        "rounds": 3,
    },
}
"""``rounds``: in so many of the rounds at most. ``ours_only``: once a round, in a session of ours. ``seconds``: no agent is begun
later than that, nor is the warm-up longer."""

_QUICK: dict[str, dict[str, Any]] = {
    "chain-1k": {"agents": 100, "warmup": 10},
    "chain-64k": {"agents": 50, "warmup": 5},
    "chain-64k-message": {"agents": 50, "warmup": 5},
    "hibernate": {"agents": 60, "warmup": 10, "singly": 20},
    "timers": {"agents": 100, "warmup": 20},
    "sleepers": {"agents": 200, "warmup": 20},
    "chat": {"messages": 64, "turn": 16, "loads": 3},
    "fanout": {"agents": 4, "open": 2, "warmup": 1},
    "batch": {"agents": 100, "warmup": 10},
    "stream": {"agents": 20, "warmup": 5, "waits": 20},
}
QUICK = {
    name: size | _QUICK[name] | {"seconds": 4, "rounds": 1, "open": min(size.get("open", 50), 50)}
    for name, size in FULL.items()
}
"""To try the harness out: its numbers mean nothing."""


def soak(minutes: float) -> dict[str, Any]:
    """W7, which is only run when it is asked for."""
    window_s = min(30.0, minutes * 60 / 4)
    return {
        "workload": "soak", "open": 50, "warmup": 50, "state_bytes": 1024, "window_s": window_s, "seconds": minutes * 60,
        "limit_s": minutes * 60 + LIMIT_S, "rounds": 1,
    }  # fmt: skip


@dataclass(slots=True)
class Session:
    """One start of one system."""

    system: str
    round: int
    workloads: list[str]
    ours: int | None = None
    """For a peer: the position of the session of ours that it is compared with, the one just before or just after it."""
    number: int = field(default=0)


def sessions(
    peers: Sequence[str], rounds: int, between: int, workloads: Mapping[str, Mapping[str, Any]]
) -> list[Session]:
    """Ours, then up to ``between`` peers, ours again, and so on; every peer is next to a session of ours."""
    found: list[Session] = []
    for one in range(rounds):
        names = [name for name, size in workloads.items() if one < size["rounds"]]
        if not names:
            break
        compared = [name for name in names if not workloads[name].get("ours_only")]
        chunks = [peers[start : start + between] for start in range(0, len(peers), between)] if compared else []
        for number, chunk in enumerate(chunks or [[]]):
            alone = [name for name in names if not chunk or (number == 0 and name not in compared)]
            found.append(Session(OURS, one, alone))
            before = len(found) - 1
            follows = between == 2
            for place, peer in enumerate(chunk):
                ours = before if not follows or place == 0 else before + 1 + len(chunk)
                found.append(Session(peer, one, compared, ours))
    if any(session.ours == len(found) for session in found):
        found.append(Session(OURS, rounds - 1, []))
    for number, session in enumerate(found):
        session.number = number
        if session.ours is not None:
            partner = found[session.ours]
            partner.workloads += [name for name in session.workloads if name not in partner.workloads]
    return found


def sizes(session: Session, workloads: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The plan that a driver reads."""
    defaults = {"open": 200, "limit_s": LIMIT_S}
    return [{"id": name, **defaults, **size} for name, size in workloads.items() if name in session.workloads]
