"""The agents of a run: what is started, what is told to them while they run, and what must come out of it. Pure and seeded."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LONG_SHARE = 2 / 3
"""Of the chains."""


@dataclass(frozen=True, slots=True)
class Say:
    """A signal to an agent's thread."""

    name: str
    n: int
    after_s: float
    """After the start was acknowledged."""
    copies: int = 1
    """How often it is sent with the same key."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent."""

    number: int
    graph: str
    inputs: tuple[dict[str, Any], ...]
    """One run for each, on the same thread, not waiting for one another."""
    says: tuple[Say, ...] = ()
    answer: int | None = None
    """What a person says who is asked."""
    expect: tuple[tuple[str, ...], ...] = ()
    """The final ``log``: one of these. Empty: the agent stays where it waits."""
    ordered: bool = True
    """Whether the order of the log is known."""
    effects: tuple[str, ...] = ()
    """The effects that must have happened, each once."""
    no_effects: tuple[str, ...] = ()
    """The effects that must not have happened."""


def _work(chance: random.Random) -> float:
    return round(chance.choice((0.0, 0.05, chance.uniform(0.1, 1.5))), 2)


def _chain(chance: random.Random, number: int) -> Agent:
    """Two of three work for many seconds: whenever a fault comes, a worker is in the middle of some."""
    long = chance.random() < LONG_SHARE
    count = chance.randint(12, 20) if long else chance.randint(2, 6)
    work_s = round(chance.uniform(0.8, 1.4), 2) if long else _work(chance)
    return Agent(number, "chain", ({"count": count, "work_s": work_s},), expect=(tuple(map(str, range(count))),))


def _fan(chance: random.Random, number: int) -> Agent:
    count = chance.randint(2, 5)
    expect = (*map(str, range(count)), "joined")
    return Agent(number, "fan", ({"count": count, "work_s": _work(chance)},), expect=(expect,), ordered=False)


def _talk(chance: random.Random, number: int) -> Agent:
    words = ("one", "two", "three")
    inputs = tuple({"word": word, "work_s": _work(chance)} for word in words)
    expect = tuple(f"{verb} {word}" for word in words for verb in ("heard", "said"))
    return Agent(number, "talk", inputs, expect=(expect,), ordered=False)


def _sleeper(chance: random.Random, number: int) -> Agent:
    wait_s = round(chance.uniform(1, 5), 2)
    return Agent(number, "sleeper", ({"wait_s": wait_s},), expect=(("before", "slept", "after"),))


def _reply(chance: random.Random, number: int) -> Agent:
    say = Say("reply", number, chance.choice((0.0, chance.uniform(0.2, 8.0))), chance.choice((1, 1, 2, 3)))
    return Agent(number, "reply", ({},), (say,), expect=(("before", f"reply {number}", "after"),))


def _series(chance: random.Random, number: int) -> Agent:
    count = chance.randint(2, 3)
    says = tuple(Say("item", n, chance.uniform(0.0, 6.0), chance.choice((1, 2))) for n in range(count))
    expect = ("before", *(f"item {n}" for n in range(count)), "after")
    return Agent(number, "series", ({"count": count},), says, expect=(expect,), ordered=False)


def _race(chance: random.Random, number: int) -> Agent:
    wait_s = round(chance.uniform(1, 4), 2)
    say = Say("reply", number, wait_s + chance.uniform(-1.0, 1.0), chance.choice((1, 2)))
    expect = (("before", f"reply {number}", "after"), ("before", "timed out", "after"))
    return Agent(number, "race", ({"wait_s": wait_s},), (say,), expect=expect)


def _asks(chance: random.Random, number: int) -> Agent:
    return Agent(number, "asks", ({},), answer=number, expect=(("before", f"answer {number}", "after"),))


def _patient(chance: random.Random, number: int) -> Agent:
    return Agent(number, "patient", ({},))


def _post(chance: random.Random, number: int) -> Agent:
    given = {"n": number, "pause_s": _work(chance)}
    return Agent(number, "post", (given,), expect=(("posted",),), effects=("post",))


def _buy(chance: random.Random, number: int) -> Agent:
    given = {"n": number, "pause_s": _work(chance)}
    return Agent(number, "buy", (given,), expect=(("bought",),), effects=("buy",))


def _stale(chance: random.Random, number: int) -> Agent:
    return Agent(number, "stale", ({"n": number},), expect=(("stale", "refused"),), no_effects=("buy",))


def _approve(chance: random.Random, number: int) -> Agent:
    given = {"n": number, "pause_s": _work(chance)}
    return Agent(number, "approve", (given,), answer=number, expect=(("asked", "paid"),), effects=("pay",))


MAKERS: dict[str, tuple[int, Callable[[random.Random, int], Agent]]] = {
    "chain": (8, _chain),
    "fan": (2, _fan),
    "talk": (2, _talk),
    "sleeper": (3, _sleeper),
    "reply": (4, _reply),
    "series": (3, _series),
    "race": (4, _race),
    "asks": (3, _asks),
    "patient": (1, _patient),
    "post": (4, _post),
    "buy": (4, _buy),
    "stale": (2, _stale),
    "approve": (3, _approve),
}
"""By graph: how often, and how it is made."""


def agent(seed: int, number: int) -> Agent:
    """The agent with a number: always the same for a seed."""
    chance = random.Random(f"{seed}/agent/{number}")
    names = list(MAKERS)
    name = (
        names[number % len(names)] if number < len(names) else chance.choices(names, [MAKERS[n][0] for n in names])[0]
    )
    return MAKERS[name][1](chance, number)
