"""Faults in one running system: killed services, commands delivered again and again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.polling import until_blocking

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.schemas.commands import StartReason, StartRun
from perdure.schemas.envelope import encode
from perdure.schemas.topics import COMMANDS

pytestmark = pytest.mark.timeout(420)

RUNS = 200


@pytest.mark.parametrize("victim", ["gateway", "agent_step", "indexer", "scheduler"])
def test_kill_a_service_in_the_middle_of_200_runs(
    system: Any, opensearch_url: str, tmp_path: Path, victim: str
) -> None:
    file = tmp_path / "effects"
    before = system.db.notebook.count_documents({"kind": "c"})
    runs = [system.start("effects", {"n": 5, "delay_s": 0.02, "file": str(file)}) for _ in range(RUNS)]
    system.until_checkpoints(before + RUNS)
    service = system.services[victim]
    service.kill()
    assert not service.running
    service.start()
    ended = system.until_ended(*runs, timeout_s=120)
    assert Counter(run["status"] for run in ended) == {"success": RUNS}
    threads = [run["thread_id"] for run in runs]
    system.assert_linear(threads)
    executed = Counter(file.read_text().splitlines())
    assert len(executed) == RUNS * 5, "a step never ran"
    if victim != "agent_step":
        assert set(executed.values()) == {1}, "a step ran twice though no worker died"
    else:
        assert {run["epoch"] for run in ended} <= {1, 2}
        assert max(executed.values()) <= 2
    system.assert_indexed(opensearch_url, threads, timeout_s=60)


def test_every_acknowledged_start_survives_the_gateway(system: Any, tmp_path: Path) -> None:
    """The gateway is killed while 200 clients start runs; each repeats its request with its key until it has a 202."""
    gateway = system.services["gateway"]
    file = tmp_path / "effects"
    acknowledged: list[dict[str, Any]] = []
    killed = threading.Event()

    def start(number: int) -> dict[str, Any]:
        body = {"assistant_id": "effects", "input": {"n": 2, "file": str(file)}}
        key = {"Idempotency-Key": f"{tmp_path.name}-{number}"}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                answer = httpx.post(f"{gateway.address}/runs", json=body, headers=key, timeout=10)
            except httpx.TransportError:
                killed.wait(0.05)
                continue
            if answer.status_code == 202:
                acknowledged.append(answer.json())
                return dict(answer.json())
        raise AssertionError(f"start {number} was never acknowledged")

    with ThreadPoolExecutor(16) as clients:
        starts = [clients.submit(start, number) for number in range(RUNS)]
        until_blocking(lambda: len(acknowledged) > RUNS // 4, "a quarter of the starts is acknowledged")
        gateway.kill()
        early = list(acknowledged)
        gateway.start()
        killed.set()
        runs = [one.result() for one in starts]
    assert len(early) < RUNS, "the gateway was killed too late to show anything"
    assert len({run["run_id"] for run in runs}) == RUNS
    ended = system.until_ended(*runs, timeout_s=120)
    assert Counter(run["status"] for run in ended) == {"success": RUNS}
    keys = {"idempotency_key": {"$regex": f"^{tmp_path.name}-"}}
    assert system.db.runs.count_documents(keys) == RUNS, "a repeated request made a second run"
    assert set(Counter(file.read_text().splitlines()).values()) == {1}
    system.assert_linear([run["thread_id"] for run in runs])


def test_a_command_delivered_many_times(system: Any, kafka_bootstrap: str, tmp_path: Path) -> None:
    file = tmp_path / "effects"
    run = system.start("effects", {"n": 10, "delay_s": 0.05, "file": str(file)})
    command = StartRun(
        tenant="default", thread_id=run["thread_id"], run_id=run["run_id"], reason=StartReason.REGISTERED
    )
    record = encode(command, id=f"{run['run_id']}:start", source="test", correlation_id=run["run_id"], time=now())

    async def repeat() -> None:
        producer = Producer(kafka_bootstrap, "test")
        await asyncio.gather(*(producer.send(COMMANDS.name, record) for _ in range(50)))
        await producer.close()

    asyncio.run(repeat())
    (ended,) = system.until_ended(run)
    assert (ended["status"], ended["epoch"]) == ("success", 1)
    asyncio.run(repeat())
    (later,) = system.until_ended(run)
    assert later["ended_seq"] == ended["ended_seq"]
    assert set(Counter(file.read_text().splitlines()).values()) == {1}
    system.assert_linear([run["thread_id"]])
