"""Who owns a run, and servers that go away: hand-over, two owners, another version, OpenSearch and MongoDB down.

Each test has a system of its own; no other may run meanwhile, for consumer groups are shared by all on the same brokers.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from tests.support.polling import until_blocking

from perdure.schemas.topics import EVENTS

pytestmark = pytest.mark.timeout(420)


def test_a_worker_that_is_told_to_stop_hands_over(start_system: Any, tmp_path: Path) -> None:
    file = tmp_path / "effects"
    names = ("gateway", "agent_step", "agent_step", "scheduler")
    system = start_system(names=names)
    runs = [system.start("effects", {"n": 20, "delay_s": 0.1, "file": str(file)}) for _ in range(40)]
    system.until_checkpoints(200)
    system.services["agent_step"].terminate()
    ended = system.until_ended(*runs, timeout_s=90)
    assert Counter(run["status"] for run in ended) == {"success": 40}
    assert {run["epoch"] for run in ended} == {1, 2}, "no run changed its worker"
    executed = Counter(file.read_text().splitlines())
    assert len(executed) == 40 * 20
    assert set(executed.values()) == {1}, "a hand-over ran a step twice"
    system.assert_linear([run["thread_id"] for run in runs])


def test_two_workers_that_both_believe_they_own_the_runs(start_system: Any, tmp_path: Path) -> None:
    """One worker is frozen until its lease has expired and its runs have moved; then it wakes and goes on writing."""
    file = tmp_path / "effects"
    names = ("gateway", "agent_step", "agent_step", "scheduler")
    system = start_system(names=names)
    runs = [system.start("effects", {"n": 30, "delay_s": 0.1, "file": str(file)}) for _ in range(60)]
    system.until_checkpoints(120)
    frozen = system.services["agent_step"]
    frozen.pause()
    until_blocking(lambda: system.db.runs.count_documents({"epoch": {"$gte": 2}}) > 0, "a run is taken over")
    frozen.resume()
    ended = system.until_ended(*runs, timeout_s=120)
    assert Counter(run["status"] for run in ended) == {"success": 60}
    system.assert_linear([run["thread_id"] for run in runs])
    executed = Counter(file.read_text().splitlines())
    assert len(executed) == 60 * 30
    assert frozen.running, "the worker that lost its lease must live on with a new one"


def test_the_run_that_made_a_thread_is_not_its_first(start_system: Any) -> None:
    """Another gateway, whose clock is behind, took a second run of the thread, which therefore is the older one."""
    system = start_system(names=("gateway", "agent_step", "scheduler"))
    worker = system.services["agent_step"]
    worker.terminate()
    made = system.start("chain", {"n": 2})
    other = system.start("chain", {"n": 4}, made["thread_id"])
    found = system.db.runs.find_one({"_id": made["run_id"]})
    system.db.runs.update_one({"_id": other["run_id"]}, {"$set": {"created_at": found["created_at"] - timedelta(1)}})
    worker.start()
    ended = system.until_ended(made, other)
    assert Counter(run["status"] for run in ended) == {"success": 2}
    assert ended[1]["ended_seq"] < ended[0]["ended_seq"]
    assert system.values(made["thread_id"])["log"] == ["1 odd", "2 even", "3 odd", "4 even"]
    system.assert_linear([made["thread_id"]])


def test_a_thread_waits_at_a_node_that_a_new_version_does_not_have(start_system: Any) -> None:
    system = start_system(names=("gateway", "agent_step", "scheduler"))
    run = system.start("vanishing", {})
    (waiting,) = system.until_ended(run)
    assert (waiting["status"], waiting["next"]) == ("interrupted", ["b"])
    worker = system.services["agent_step"]
    worker.env["VANISHING_WITHOUT_B"] = "1"
    worker.restart()
    (ended,) = system.until_ended(
        system.start("vanishing", thread=run["thread_id"], command={"resume": "yes"}), timeout_s=30
    )
    assert ended["status"] == "error"
    assert ended["error"]["type"].endswith("NodeGoneError")
    assert "b" in ended["error"]["message"]
    del worker.env["VANISHING_WITHOUT_B"]
    worker.restart()
    (healed,) = system.until_ended(system.start("vanishing", thread=run["thread_id"], command={"resume": "yes"}))
    assert healed["status"] == "success", healed["error"]
    assert system.values(run["thread_id"])["answers"] == ["yes"]


def test_a_node_that_hogs_the_interpreter_keeps_its_lease(start_system: Any) -> None:
    system = start_system(names=("gateway", "agent_step", "scheduler"))
    run = system.start("hog", {"seconds": 6})
    (ended,) = system.until_ended(run, timeout_s=60)
    assert (ended["status"], ended["epoch"]) == ("success", 1)


def test_opensearch_away_for_a_minute_while_runs_go_on(own_stack: Any, start_system: Any) -> None:
    servers = own_stack("kafka", "mongodb", "opensearch")
    system = start_system(servers=servers)
    url = servers.environment()["PERDURE_OPENSEARCH_URL"]
    system.until_ended(system.start("chain", {"n": 2}))
    servers.pause("opensearch")
    runs = [system.start("chain", {"n": 5, "delay_s": 1}) for _ in range(20)]
    ended = system.until_ended(*runs, timeout_s=90)
    away = [system.start("chain", {"n": 50, "delay_s": 1}) for _ in range(5)]
    ended += system.until_ended(*away, timeout_s=90)
    assert Counter(run["status"] for run in ended) == {"success": 25}, "runs must not notice"
    servers.resume("opensearch")
    system.assert_indexed(url, [run["thread_id"] for run in runs + away], timeout_s=90)


def test_the_database_away_while_runs_go_on(own_stack: Any, start_system: Any, tmp_path: Path) -> None:
    servers = own_stack("kafka", "mongodb", "opensearch")
    system = start_system(servers=servers, names=("gateway", "agent_step", "scheduler"))
    file = tmp_path / "effects"
    runs = [system.start("effects", {"n": 20, "delay_s": 0.2, "file": str(file)}) for _ in range(50)]
    system.until_checkpoints(200)
    servers.stop_server("mongodb", kill=True)
    answer = system.http.post("/runs", json={"assistant_id": "chain", "input": {}})
    assert answer.status_code == 503, answer.text
    assert "retry-after" in answer.headers
    servers.start_server("mongodb")
    ended = system.until_ended(*runs, timeout_s=120)
    assert Counter(run["status"] for run in ended) == {"success": 50}
    system.assert_linear([run["thread_id"] for run in runs])
    assert len(Counter(file.read_text().splitlines())) == 50 * 20


def test_the_next_run_of_a_thread_does_not_overtake_events_that_died_with_a_worker(
    start_system: Any, own_stack: Any
) -> None:
    """Kafka is away when a run ends and the worker dies with its events; nobody sweeps before the next run is claimed."""
    servers = own_stack("kafka", "mongodb")
    names = ("gateway", "agent_step", "scheduler")
    system = start_system(names=names, settings={"PERDURE_SETTLE_GRACE_S": "120"}, servers=servers)
    first = system.start("slow", {"seconds": 2})
    until_blocking(
        lambda: system.db.runs.find_one({"_id": first["run_id"], "status": "running"}), "the first run is executed"
    )
    servers.pause("kafka")
    until_blocking(
        lambda: system.db.runs.find_one({"_id": first["run_id"], "ended_seq": {"$exists": True}}),
        "the end of the first run is stored",
    )
    assert not system.db.runs.find_one({"_id": first["run_id"]})["settled"]
    second = system.start("chain", {}, thread=first["thread_id"])
    system.services["agent_step"].kill()
    servers.resume("kafka")
    system.services["agent_step"].start()
    system.until_ended(first, second)
    assert_published_in_order(servers.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"], first["thread_id"])


def assert_published_in_order(bootstrap_servers: str, thread_id: str) -> None:
    """Each event of the thread's history is in Kafka, the first of each in the order of their numbers."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "test", "enable.partition.eof": True})
    partitions = [TopicPartition(EVENTS.name, n, 0) for n in range(EVENTS.partitions)]
    consumer.assign(partitions)
    seqs: list[int] = []
    ended = 0
    while ended < len(partitions):
        message = consumer.poll(10)
        assert message is not None
        if message.error():
            ended += 1
        elif message.key() == thread_id.encode():
            seqs.append(int(dict(message.headers())["ce_id"].rpartition(b":")[2]))
    consumer.close()
    firsts = list(dict.fromkeys(seqs))
    assert firsts == list(range(1, max(firsts) + 1)), firsts
