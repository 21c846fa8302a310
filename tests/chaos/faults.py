"""Doing the planned faults to real processes, and undoing them.

Contract: each fault runs in a thread of its own, from its planned second on; a target is never hurt by two at once. A service that
ends without a fault of ours (its server was away when it started, say) is started again at once, as any supervisor would, and
counted. :meth:`Faults.finish` returns when every fault is undone and everything runs.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from tests.chaos.poison import poison
from tests.chaos.refusal import refuse
from tests.chaos.schedule import BROKERS, Fault, Kind

from perdure.local.errors import LocalError
from perdure.local.process import last_lines
from perdure.local.services import ServiceProcess, Services
from perdure.local.stack import Stack

COMMANDS = "perdure.commands"
CONFIG = "PERDURE_LANGGRAPH_CONFIG"
HALF = Path(__file__).parent / "graphs" / "half.json"
START = b"perdure.run.start"
COPIES = 40
"""Commands that one fault sends again, at most."""
WATCH_S = 0.3
ANSWER_S = 5.0


class Faults:
    """The faults of one run.

    Args:
        stack: The servers.
        kafka: How the brokers are reached: options of librdkafka.
        services: The service processes, by label.
        planned: What to do.

    """

    def __init__(self, stack: Stack, kafka: Mapping[str, Any], services: Services, planned: list[Fault]) -> None:
        self._stack = stack
        self._kafka = kafka
        self._services = services
        self._planned = planned
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._ending = threading.Event()
        self._began = 0.0
        self._threads: list[threading.Thread] = []
        self._watch = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._watching = threading.Event()
        self.done: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.poisoned: list[str] = []
        """Where the records are that nobody can handle: the ids of their dead letters."""
        self.restarted: Counter[str] = Counter()
        """Services that ended without a fault of ours, by label."""

    def begin(self) -> None:
        """Start the clock."""
        self._began = time.monotonic()
        self._watch.start()
        for fault in self._planned:
            name = f"{fault.kind} {fault.target}"
            self._threads.append(threading.Thread(target=self._run, args=(fault,), name=name, daemon=True))
            self._threads[-1].start()

    def finish(self, timeout_s: float) -> None:
        """Wait until all are done and undone, and everything is ready."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self.problems.append(f"{thread.name} was not undone within {timeout_s:.0f} s")
        self._watching.set()
        for process in self._services.processes.values():
            with self._locks[process.label]:
                try:
                    process.start(wait=False)
                    process.wait_ready(timeout_s=max(20.0, deadline - time.monotonic()))
                except LocalError as error:
                    self.problems.append(f"{process.label} is not ready after the faults: {error}")

    def abort(self) -> None:
        """Begin no more."""
        self._ending.set()
        self._watching.set()

    def _run(self, fault: Fault) -> None:
        if self._ending.wait(max(0.0, self._began + fault.at_s - time.monotonic())):
            return
        # Not while the brokers are away or refuse: a topic must take records again, and poison be acknowledged, within its time.
        lock = "kafka" if fault.target in BROKERS or fault.kind in (Kind.REFUSED, Kind.POISON) else fault.target
        with self._locks[lock]:
            began = time.monotonic() - self._began
            try:
                said = self._do(fault)
            except (LocalError, KafkaException, OSError) as error:
                said = f"failed: {error}"
                self.problems.append(f"{fault.kind} {fault.target}: {traceback.format_exc()}")
            ended = time.monotonic() - self._began
            record = fault.as_json() | {"began_s": round(began, 2), "ended_s": round(ended, 2), "said": said}
            self.done.append(record)

    def _do(self, fault: Fault) -> str:
        if fault.kind is Kind.REPLAY:
            return replay(self._kafka, fault, self._ending)
        if fault.kind in (Kind.OUTAGE, Kind.BROKER):
            return self._stop_server(fault)
        if fault.kind is Kind.REFUSED:
            return refuse(self._kafka, fault.target, fault.lasts_s, self._ending)
        if fault.kind is Kind.POISON:
            return f"{poison(self._kafka, fault.seed, self.poisoned)} records"
        process = self._services[fault.target]
        if fault.kind is Kind.HALF:
            return self._serve_half(process, fault)
        if fault.kind is Kind.PAUSE:
            process.pause()
            self._ending.wait(fault.lasts_s)
            process.resume()
            return ""
        if fault.kind is Kind.KILL:
            process.kill()
            self._ending.wait(fault.lasts_s)
        else:
            process.terminate(timeout_s=20)
        process.start(wait=False)
        return ""

    def _serve_half(self, process: ServiceProcess, fault: Fault) -> str:
        whole = process.env[CONFIG]
        process.env[CONFIG] = str(HALF)
        try:
            process.terminate(timeout_s=20)
            process.start(wait=False)
            self._ending.wait(fault.lasts_s)
        finally:
            process.env[CONFIG] = whole
        process.terminate(timeout_s=20)
        process.start(wait=False)
        return f"{HALF.name}"

    def _stop_server(self, fault: Fault) -> str:
        kill = fault.target != "kafka" or bool(fault.seed % 2)
        self._stack.stop_server(fault.target, kill=kill)
        self._ending.wait(fault.lasts_s)
        self._stack.start_server(fault.target)
        return "kill -9" if kill else "SIGTERM"

    def _supervise(self) -> None:
        while not self._watching.wait(WATCH_S):
            for process in self._services.processes.values():
                if self._locks[process.label].acquire(blocking=False):
                    try:
                        self._revive(process)
                    finally:
                        self._locks[process.label].release()

    def _revive(self, process: ServiceProcess) -> None:
        if process.running:
            return
        self.restarted[process.label] += 1
        if self.restarted[process.label] == 1:
            self.problems.append(f"{process.label} ended by itself: {' | '.join(last_lines(process.log, 4))[-600:]}")
        try:
            process.start(wait=False)
        except LocalError as error:
            self.problems.append(f"{process.label} could not be started again: {error}")


def replay(kafka: Mapping[str, Any], fault: Fault, ending: threading.Event) -> str:
    """Send copies of start commands again, after ``fault.lasts_s``; every copied command was delivered before."""
    records = [r for r in read_topic(kafka, COMMANDS) if dict(r.headers() or ()).get("ce_type") == START]
    chosen = random.Random(fault.seed).sample(records, min(COPIES, len(records)))
    ending.wait(fault.lasts_s)
    producer = Producer({**kafka, "acks": "all", "partitioner": "murmur2_random"})
    for record in chosen:
        producer.produce(COMMANDS, record.value(), record.key(), headers=record.headers())
    left = producer.flush(60)
    return f"{len(chosen) - left} of {len(records)} commands"


def read_topic(kafka: Mapping[str, Any], topic: str, timeout_s: float = 60.0) -> list[Any]:
    """Every record of a topic, partition by partition, from the beginning to where it ends now."""
    settings = {**kafka, "group.id": "chaos-reader", "enable.auto.commit": False}
    consumer = Consumer(settings | {"auto.offset.reset": "earliest", "enable.partition.eof": False})
    deadline = time.monotonic() + timeout_s
    try:
        ends = _until_answered(lambda: _ends(consumer, topic), deadline)
        left = {p: end for p, end in ends.items() if end > 0}
        consumer.assign([TopicPartition(topic, p, 0) for p in left])
        found: list[Any] = []
        while left:
            if time.monotonic() > deadline:
                raise KafkaException(f"{topic} could not be read within {timeout_s:g} s: {left} left")
            for record in consumer.consume(1000, 0.5):
                if record.error() is None:
                    found.append(record)
                    if record.offset() + 1 >= left.get(record.partition(), 0):
                        left.pop(record.partition(), None)
        return found
    finally:
        consumer.close()


def _ends(consumer: Consumer, topic: str) -> dict[int, int]:
    """Where each partition of a topic ends now."""
    partitions = consumer.list_topics(topic, timeout=ANSWER_S).topics[topic].partitions
    if not partitions:
        raise KafkaException(f"no broker knows {topic}")
    return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=ANSWER_S)[1] for p in partitions}


def _until_answered(ask: Callable[[], dict[int, int]], deadline: float) -> dict[int, int]:
    """Ask again while brokers are away or partitions change their leader: other faults hurt them meanwhile."""
    while True:
        try:
            return ask()
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(WATCH_S)
