"""The schedule of faults: a pure function of seed, minutes and targets, so that a seed reproduces a run.

Contract: :func:`plan` returns the faults in the order of their begin. Every kind of fault is planned at least once, however short
the run; of one target, the next fault begins after the one before has ended. Times are seconds since the begin of the run.
Outside: doing them (``faults``).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

SERVICES = ("gateway", "agent_step", "agent_step-2", "scheduler", "scheduler-2", "indexer", "validator", "notifier")
BROKERS = ("kafka-1", "kafka-2", "kafka-3")
REFUSING = ("perdure.commands", "perdure.events")
PER_MINUTE = 13
"""Faults a minute, unless the run is so short that every kind once is more."""
QUIET_S = 6.0
"""At the begin: something must run before it can be hurt."""
LONGEST_OUTAGE_S = 60.0
OUTAGE_SHARE = 0.1
"""An outage of a server lasts at most this part of the run."""


class Kind(StrEnum):
    """What is done to a target."""

    KILL = "kill -9"
    TERMINATE = "restart"
    PAUSE = "pause"
    OUTAGE = "outage"
    BROKER = "broker lost"
    REPLAY = "commands replayed"
    HALF = "half of the graphs"
    """A worker is started again and serves only half of the graphs."""
    REFUSED = "records refused"
    """Kafka takes no record of a topic that is larger than a few hundred bytes."""
    POISON = "records nobody can handle"
    """Records that can be read, and that make their handler fail."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    at_s: float
    kind: Kind
    target: str
    lasts_s: float
    """Until it is undone: the process is started again or goes on; of a replay, how late the copies are."""
    seed: int
    """For choices that only the moment can offer, such as which commands are sent again."""

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


def plan(seed: int, minutes: float, services: Sequence[str] = SERVICES) -> list[Fault]:
    """The faults of a run.

    Args:
        seed: Same seed, minutes and services: same faults.
        minutes: How long the run is.
        services: Labels of the service processes.

    """
    chance = random.Random(f"{seed}/{minutes:g}/{','.join(services)}")
    seconds = minutes * 60
    wanted = _deal(chance, services, max(1, round(minutes * PER_MINUTE)))
    room = max(seconds - QUIET_S, 1.0)
    slot = room / len(wanted)
    ends: dict[str, float] = {}
    found: list[Fault] = []
    for position, (kind, target) in enumerate(wanted):
        at = max(QUIET_S + (position + chance.random() * 0.8) * slot, ends.get(target, 0.0) + 1.0)
        lasts = _lasts(chance, kind, seconds)
        if target in BROKERS or target == "kafka":  # one broker and all brokers are one target
            at = max([at, *(ends.get(one, 0.0) + 15.0 for one in (*BROKERS, "kafka") if one in ends)])
        if at + lasts > seconds + LONGEST_OUTAGE_S:
            continue
        ends[target] = at + lasts
        found.append(Fault(round(at, 2), kind, target, round(lasts, 2), chance.randrange(2**31)))
    return sorted(found, key=lambda fault: (fault.at_s, fault.target))


def _deal(chance: random.Random, services: Sequence[str], count: int) -> list[tuple[Kind, str]]:
    """Which fault hits whom: everything that must happen first, the rest by weight; shuffled."""
    must: list[tuple[Kind, str]] = [(Kind.KILL, one) for one in services]
    must += [(Kind.OUTAGE, one) for one in ("mongodb", "kafka", "opensearch")]
    must += [(Kind.BROKER, chance.choice(BROKERS)), (Kind.REPLAY, "commands"), (Kind.REPLAY, "commands")]
    must += [
        (Kind.PAUSE, chance.choice(_only(services, "agent_step"))),
        (Kind.PAUSE, chance.choice(_only(services, "scheduler"))),
    ]
    must += [
        (Kind.HALF, chance.choice(_only(services, "agent_step"))),
        (Kind.REFUSED, "perdure.commands"),
        (Kind.REFUSED, "perdure.events"),
        (Kind.POISON, "records"),
        (Kind.POISON, "records"),
    ]
    must += [(Kind.TERMINATE, chance.choice(_only(services, "agent_step"))), (Kind.TERMINATE, chance.choice(services))]
    must += [(Kind.PAUSE, chance.choice(services)), (Kind.KILL, chance.choice(_only(services, "agent_step")))]
    weights: Mapping[Kind, int] = {
        Kind.KILL: 9, Kind.PAUSE: 6, Kind.TERMINATE: 4, Kind.OUTAGE: 2, Kind.BROKER: 1, Kind.REPLAY: 2,
        Kind.HALF: 2, Kind.REFUSED: 2, Kind.POISON: 2,
    }  # fmt: skip
    targets: Mapping[Kind, Sequence[str]] = {
        Kind.KILL: services, Kind.PAUSE: services, Kind.TERMINATE: services, Kind.BROKER: BROKERS,
        Kind.OUTAGE: ("mongodb", "kafka", "opensearch"), Kind.REPLAY: ("commands",),
        Kind.HALF: _only(services, "agent_step"), Kind.REFUSED: REFUSING, Kind.POISON: ("records",),
    }  # fmt: skip
    chance.shuffle(must)
    kinds = chance.choices(list(weights), list(weights.values()), k=max(0, count - len(must)))
    return must + [(kind, chance.choice(targets[kind])) for kind in kinds]


def _lasts(chance: random.Random, kind: Kind, seconds: float) -> float:
    if kind is Kind.OUTAGE:
        longest = min(LONGEST_OUTAGE_S, max(4.0, seconds * OUTAGE_SHARE))
        return chance.uniform(longest / 3, longest)
    if kind is Kind.PAUSE:
        return chance.uniform(1.0, min(20.0, max(6.0, seconds * OUTAGE_SHARE)))
    if kind is Kind.BROKER:
        return chance.uniform(2.0, min(30.0, max(5.0, seconds * OUTAGE_SHARE)))
    if kind is Kind.REPLAY:
        return chance.choice((0.0, chance.uniform(2.0, 20.0)))
    if kind is Kind.HALF:
        return chance.uniform(4.0, min(30.0, max(8.0, seconds * OUTAGE_SHARE)))
    if kind is Kind.REFUSED:
        return chance.uniform(2.0, min(20.0, max(5.0, seconds * OUTAGE_SHARE)))
    if kind is Kind.KILL:
        return chance.choice((0.0, chance.uniform(0.5, 8.0)))
    return 0.0


def _only(services: Sequence[str], prefix: str) -> list[str]:
    return [one for one in services if one.startswith(prefix)]
