"""The workloads. Each takes a system that is up and returns numbers; sizes come from the plan (``benchmarks/plan.py``).

Contract: a workload warms up first, unmeasured. Rates count what was completed and verified, by the clock of the driver. CPU is
that of the system from the first call until what the calls cause has been done (``System.settle``). ``seconds`` bounds the time
in which calls are begun, so that a slow system does fewer of them; the number done is reported.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Mapping
from statistics import median
from typing import Any
from uuid import uuid4

from payload import MESSAGE_BYTES, STEPS, first_message

from harness.accounting import cpu_seconds, memory_bytes
from harness.agent_server import AgentServer
from harness.loop import Cost, Done, closed_loop
from harness.numbers import milliseconds, percentile, slope
from harness.system import System

Numbers = dict[str, Any]
"""Name to number; lists of samples for plots."""
_POLL_S = 0.02
_DEADLINE_S = 120.0
_IDLE_S = 10.0


async def chain(system: System, size: Mapping[str, Any]) -> Numbers:
    """W1: many agents of five durable steps."""
    system.full_state = size.get("full_state", False)
    run = await _warm(size, lambda key: system.chain(key, size["state_bytes"]))
    await system.settle()
    return await _steps(system, size, STEPS, lambda n: system.chain(f"{run}-{n}", size["state_bytes"]))


async def batch(system: System, size: Mapping[str, Any]) -> Numbers:
    """W6: a heap of agents of one step."""
    run = await _warm(size, system.short)
    await system.settle()
    return await _steps(system, size, 1, lambda n: system.short(f"{run}-{n}"))


async def fanout(system: System, size: Mapping[str, Any]) -> Numbers:
    """W5: agents with many parallel branches; a branch counts as a step."""
    run = await _warm(size, lambda key: system.fan_out(key, size["width"]))
    await system.settle()
    return await _steps(system, size, size["width"], lambda n: system.fan_out(f"{run}-{n}", size["width"]))


async def hibernate(system: System, size: Mapping[str, Any]) -> Numbers:
    """W2: agents that wait for a signal: what they hold, and how fast they come back one by one and in a burst."""
    agents, opened = size["agents"], size["open"]
    run = uuid4().hex[:8]
    before = await system.parked()
    warm = await closed_loop(size["warmup"], opened, size["seconds"], lambda n: system.park(f"{run}-w{n}"))
    await _until_parked(system, before + warm.count)
    await closed_loop(warm.count, opened, _DEADLINE_S, lambda n: system.resume(f"{run}-w{n}"))
    await system.settle()
    gc.collect()
    held, before = memory_bytes(system.all_processes()), await system.parked()
    began = time.perf_counter()
    parking = await closed_loop(agents, opened, size["seconds"], lambda n: system.park(f"{run}-{n}"))
    await _until_parked(system, before + parking.count)
    parked_s = time.perf_counter() - began
    await system.settle()
    gc.collect()
    memory = memory_bytes(system.all_processes()) - held
    singly = min(size["singly"], parking.count // 2)
    system.back_s.clear()
    one_by_one = await closed_loop(singly, 1, size["seconds"], lambda n: system.resume(f"{run}-{n}"))
    back_ms = milliseconds(percentile(system.back_s, 50))
    rest, cost = parking.count - one_by_one.count, Cost(system)
    burst = await closed_loop(rest, opened, _DEADLINE_S, lambda n: system.resume(f"{run}-{n + one_by_one.count}"))
    await system.settle()
    return {
        "agents": parking.count,
        "parks_per_s": round(parking.count / parked_s, 1),
        "kib_per_parked": round(memory / 1024 / max(1, parking.count), 2),
        "to_node_p50_ms": back_ms,
        "resume_p50_ms": _ms(one_by_one, 50),
        "resume_p99_ms": _ms(one_by_one, 99),
        "resumes_per_s": round(burst.count / burst.wall_s, 1),
        "burst_p99_ms": _ms(burst, 99),
        **cost.per_thousand(burst.count),
    }


async def timers(system: System, size: Mapping[str, Any]) -> Numbers:
    """W3: agents whose sleep ends at one instant. All shall be asleep before it: the lead follows from a warm-up."""
    run, began, wait_s = uuid4().hex[:8], time.perf_counter(), 0.5
    due = time.time() + wait_s
    warm = await closed_loop(size["warmup"], size["open"], size["seconds"], lambda n: system.timer(f"{run}-w{n}", due))
    rate = warm.count / max(0.1, time.perf_counter() - began - wait_s)
    agents = max(1, min(size["agents"], int(rate * 2 * size["seconds"])))
    await system.settle()
    due = time.time() + 3 + min(1.5 * agents / rate, 2 * size["seconds"])
    cost = Cost(system)
    late = await asyncio.gather(*(system.timer(f"{run}-{n}", due) for n in range(agents)))
    await system.settle()
    return {
        "agents": agents,
        "late_p50_ms": milliseconds(percentile(late, 50)),
        "late_p99_ms": milliseconds(percentile(late, 99)),
        "late_max_ms": milliseconds(max(late)),
        "early": sum(one < 0 for one in late),
        **cost.per_thousand(agents),
    }


async def sleepers(
    system: System, size: Mapping[str, Any], beside: Callable[[], Awaitable[Numbers]] | None = None
) -> Numbers:
    """W3, thousands at once: what agents hold while all are asleep, and how late they wake.

    ``rate`` agents a second are started and as many are due (0: all at one instant), so that no backlog of starts grows whose
    memory would be taken for that of sleepers. ``beside`` is called when the first are due; its numbers are added.

    Raises:
        RuntimeError: the first were due before all were asleep.

    """
    agents, gap_s, run = size["agents"], 1 / size["rate"] if size["rate"] else 0.0, uuid4().hex[:8]
    soon = time.time() + 2
    await asyncio.gather(*(system.timer(f"{run}-w{n}", soon) for n in range(size["warmup"])))
    await system.settle()
    await asyncio.sleep(_IDLE_S)
    parked, before, began = await system.parked(), system.memory_mib(), time.perf_counter()
    first = time.time() + agents * (gap_s or 1 / 50) + 4 * _IDLE_S

    async def one(n: int) -> float:
        await asyncio.sleep(n * gap_s)
        return await system.timer(f"{run}-{n}", first + n * gap_s)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(n)) for n in range(agents)]
        await _until_parked(system, parked + agents, first - time.time())
        falling_s = time.perf_counter() - began
        if time.time() + 2 * _IDLE_S > first:
            raise RuntimeError(f"{agents} agents were not asleep in time: the machine is too busy for this rate")
        await asyncio.sleep(_IDLE_S / 2)
        asleep, cpu = system.memory_mib(), cpu_seconds(system.all_processes())
        await asyncio.sleep(_IDLE_S / 2)
        cores = (cpu_seconds(system.all_processes()) - cpu) / (_IDLE_S / 2)
        await asyncio.sleep(max(0.0, first - time.time()))
        more = await beside() if beside else {}
    woken_s = time.time() - first
    late = [task.result() for task in tasks]
    growth = {name: mib - before[name] for name, mib in asleep.items()}
    return {
        "agents": agents,
        "asleep_per_s": round(agents / falling_s, 1),
        "woken_per_s": round(agents / woken_s, 1),
        "late_p50_ms": milliseconds(percentile(late, 50)),
        "late_p99_ms": milliseconds(percentile(late, 99)),
        "late_max_ms": milliseconds(max(late)),
        "early": sum(one < 0 for one in late),
        "service_growth_mib": round(max(mib for name, mib in growth.items() if name not in system.stores), 1),
        "store_growth_mib": round(sum(mib for name, mib in growth.items() if name in system.stores), 1),
        "cores_asleep": round(cores, 3),
        "mib": {"before": before, "asleep": asleep, "after": system.memory_mib()},
        **more,
    }


async def chat(system: System, size: Mapping[str, Any]) -> Numbers:
    """W4: one agent whose history grows by one message of 1 KiB a step; a call adds ``turn`` of them."""
    run, total, turn = uuid4().hex[:8], size["messages"], size["turn"]
    await system.talk(f"{run}-w", turn)
    await system.settle()
    stored, cost, began = await system.stored(), Cost(system), time.perf_counter()
    key, done, rates = f"{run}-chat", 0, list[tuple[int, float]]()
    while done < total and time.perf_counter() - began < size["seconds"]:
        started = time.perf_counter()
        await system.talk(key, done + turn)
        done += turn
        rates.append((done, round(turn / (time.perf_counter() - started), 2)))
    wall_s = time.perf_counter() - began
    await system.settle()
    numbers = cost.per_thousand(done)
    grown = _per_step(await system.stored(), stored, done)
    loads = list[float]()
    for _ in range(size["loads"]):
        started = time.perf_counter()
        if (found := await system.recall(key)) != done:
            raise RuntimeError(f"the last state has {found} messages instead of {done}")
        loads.append(time.perf_counter() - started)
    return {
        "messages": done,
        "state_kib": done * MESSAGE_BYTES // 1024,
        "steps_per_s": round(done / wall_s, 1),
        "steps_per_s_at_end": rates[-1][1],
        "load_p50_ms": milliseconds(median(loads)),
        **grown,
        **numbers,
        "rate_by_messages": rates,
    }


async def stream(system: System, size: Mapping[str, Any]) -> Numbers:
    """W8: words of a chat model on their way to clients, ``open`` streams at a time; then runs of one step, waited for one by one.

    A stream that misses a word fails the workload. Latencies are of the driver, which reads all streams in one process. The first
    ``open`` streams are begun within the time that one stream takes, so that it is not all of them that begin at one instant.
    """
    client, run = AgentServer(str(system.agent_server())), uuid4().hex[:8]
    first, every, lost = list[float](), list[float](), 0

    async def read(key: str) -> None:
        nonlocal lost
        took = await client.words(key)
        lost += size["words"] - len(took)
        first.extend(took[:1])
        every.extend(took)

    try:
        await closed_loop(size["warmup"], size["open"], size["seconds"], lambda n: read(f"{run}-w{n}"))
        await closed_loop(
            size["warmup"], 1, size["seconds"], lambda n: client.wait(f"{run}-v{n}", [first_message(1024)])
        )
        await system.settle()
        first.clear(), every.clear(), client.waited_s.clear()
        cost = Cost(system)
        done = await closed_loop(
            size["agents"], size["open"], size["seconds"], lambda n: read(f"{run}-{n}"), size["spread_s"]
        )
        await system.settle()
        numbers = cost.per_thousand(len(every))
        await closed_loop(
            size["waits"], 1, size["seconds"], lambda n: client.wait(f"{run}-x{n}", [first_message(1024)])
        )
    finally:
        await client.close()
    if lost:
        raise RuntimeError(f"{lost} words did not arrive")
    return {
        "agents": done.count,
        "first_token_p50_ms": milliseconds(percentile(first, 50)),
        "first_token_p99_ms": milliseconds(percentile(first, 99)),
        "token_p50_ms": milliseconds(percentile(every, 50)),
        "token_p99_ms": milliseconds(percentile(every, 99)),
        "wait_p50_ms": milliseconds(percentile(client.waited_s, 50)),
        "wait_p99_ms": milliseconds(percentile(client.waited_s, 99)),
        **numbers,
    }


async def soak(system: System, size: Mapping[str, Any]) -> Numbers:
    """W7: chains for a long time, in windows: cost and latency a step must not grow with the data."""
    run = await _warm(size, lambda key: system.chain(key, size["state_bytes"]))
    windows, began, number = list[Numbers](), time.perf_counter(), 0
    while time.perf_counter() - began < size["seconds"]:
        cost, offset = Cost(system), number
        done = await closed_loop(
            10**9,
            size["open"],
            size["window_s"],
            lambda n, at=offset: system.chain(f"{run}-{at + n}", size["state_bytes"]),
        )
        await system.settle()
        number += 10**6
        cpu = cost.per_thousand(done.count * STEPS)["cpu_s_per_1000"]
        windows.append(
            {
                "at_s": round(time.perf_counter() - began, 1),
                "steps": done.count * STEPS,
                "steps_per_s": round(done.count * STEPS / done.wall_s, 1),
                "cpu_s_per_1000": cpu,
                "e2e_p50_ms": _ms(done, 50),
                "memory_mib": system.memory_mib(),
            }
        )
    at = [one["at_s"] for one in windows]
    memory = [sum(one["memory_mib"].values()) for one in windows]
    late = len(at) // 2
    return {
        "steps": sum(one["steps"] for one in windows),
        "minutes": round(at[-1] / 60, 1),
        "steps_per_s": round(median(one["steps_per_s"] for one in windows), 1),
        "cpu_s_per_1000": round(median(one["cpu_s_per_1000"] for one in windows), 3),
        "cpu_growth": round(slope(at, [one["cpu_s_per_1000"] for one in windows]), 4),
        "latency_growth": round(slope(at, [one["e2e_p50_ms"] for one in windows]), 4),
        "memory_growth": round(slope(at, memory), 4),
        "late_memory_growth": round(slope(at[late:], memory[late:]), 4),
        "windows": windows,
    }


WORKLOADS: dict[str, Callable[[System, Mapping[str, Any]], Awaitable[Numbers]]] = {
    "chain": chain,
    "hibernate": hibernate,
    "timers": timers,
    "sleepers": sleepers,
    "chat": chat,
    "fanout": fanout,
    "batch": batch,
    "stream": stream,
    "soak": soak,
}


async def _warm(size: Mapping[str, Any], call: Callable[[str], Awaitable[None]]) -> str:
    run = uuid4().hex[:8]
    await closed_loop(size["warmup"], size["open"], size["seconds"], lambda n: call(f"{run}-w{n}"))
    gc.collect()
    return run


async def _steps(
    system: System, size: Mapping[str, Any], steps: int, call: Callable[[int], Awaitable[None]]
) -> Numbers:
    stored = await system.stored()
    system.ack_s.clear(), system.searchable_s.clear()
    cost = Cost(system)
    done = await closed_loop(size["agents"], size["open"], size["seconds"], call)
    await system.settle()
    count = done.count * steps
    numbers = cost.per_thousand(count)
    return {
        "agents": done.count,
        "steps_per_s": round(count / done.wall_s, 1),
        "agents_per_s": round(done.count / done.wall_s, 1),
        "e2e_p50_ms": _ms(done, 50),
        "e2e_p99_ms": _ms(done, 99),
        "ack_p50_ms": milliseconds(percentile(system.ack_s, 50)),
        "ack_p99_ms": milliseconds(percentile(system.ack_s, 99)),
        "searchable_p50_ms": milliseconds(percentile(system.searchable_s, 50)),
        "searchable_p99_ms": milliseconds(percentile(system.searchable_s, 99)),
        **_per_step(await system.stored(), stored, count),
        **numbers,
    }


def _per_step(after: Mapping[str, int], before: Mapping[str, int], steps: int) -> Numbers:
    names = {"data": "bytes_per_step", "journal": "journal_bytes_per_step"}
    return {names[kind]: round((after[kind] - before[kind]) / max(1, steps)) for kind in after}


async def _until_parked(system: System, count: int, timeout_s: float = _DEADLINE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while (found := await system.parked()) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{found} of {count} agents came to their wait in {timeout_s:.0f} s")
        await asyncio.sleep(_POLL_S)


def _ms(done: Done, percent: float) -> float | None:
    return milliseconds(percentile(done.took_s, percent))
