"""``topics apply``: compare the declared topics with the cluster's and change it. Idempotent, never destructive.

Partitions are raised, never lowered (lowering would move keys to other partitions and break order); a setting that
somebody changed by hand is set back; a topic that nobody declares is left alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
    TopicMetadata,
)

from perdure.chassis.errors import UnavailableError
from perdure.chassis.kafka.clients import describe, new_admin, new_consumer
from perdure.chassis.kafka.settings import KafkaAddress, address_of
from perdure.schemas.topics import Topic

CLIENT_ID = "perdure-topics"
TIMEOUT_S = 15.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between what is declared and what the cluster has.

    Attributes:
        topic: The topic's name.
        action: ``create``, ``add_partitions``, ``set_config`` or ``keep_partitions`` (a difference that is left).
        detail: What changes, for people.

    """

    topic: str
    action: str
    detail: str
    config: tuple[tuple[str, str], ...] = ()
    partitions: int = 0


@dataclass(frozen=True, slots=True)
class Existing:
    """A topic as the cluster has it: partitions, and the smallest number of replicas of one of them."""

    partitions: int
    replication: int


class TopicAdmin:
    """The cluster's topics.

    Args:
        kafka: Where the brokers are.
        timeout_s: How long one request may take, in seconds.

    """

    def __init__(self, kafka: KafkaAddress, *, timeout_s: float = TIMEOUT_S) -> None:
        self._kafka = kafka
        self._address = address_of(kafka)
        self._timeout_s = timeout_s
        self._admin = new_admin(kafka, CLIENT_ID)
        self._readers: dict[str, Consumer] = {}

    async def diff(self, topics: Sequence[Topic]) -> list[Change]:
        """What :meth:`apply` would do.

        Raises:
            UnavailableError: no broker answers.

        """
        return await asyncio.to_thread(self._diff, topics)

    async def apply(self, topics: Sequence[Topic], replication: int | None = None) -> list[Change]:
        """Create and change what differs; returns what was done.

        Args:
            topics: The declared topics.
            replication: Replication factor of new topics; default 3, or fewer when there are fewer brokers. With 3 or
                more, ``min.insync.replicas`` is 2.

        Raises:
            UnavailableError: no broker answers, or one refuses.

        """
        return await asyncio.to_thread(self._apply, topics, replication)

    async def existing(self) -> dict[str, Existing]:
        """The cluster's topics by name.

        Raises:
            UnavailableError: no broker answers.

        """
        found = await asyncio.to_thread(self._topics)
        return {
            name: Existing(len(topic.partitions), min((len(p.replicas) for p in topic.partitions.values()), default=0))
            for name, topic in found.items()
        }

    async def lag(self, group: str, topic: Topic) -> int:
        """Records of the topic that the group has not committed yet; none where the topic does not exist.

        Raises:
            UnavailableError: Kafka does not answer.

        """
        return await asyncio.to_thread(self._lag, group, topic)

    def _call(self, futures: dict[Any, Future[Any]], harmless: int | None = None) -> dict[Any, Any]:
        found = {}
        for key, future in futures.items():
            try:
                found[key] = future.result(self._timeout_s)
            except KafkaException as error:
                if error.args[0].code() != harmless:
                    raise UnavailableError("Kafka", self._address, describe(error)) from error
            except TimeoutError as error:
                raise UnavailableError("Kafka", self._address, f"nothing within {self._timeout_s:g} s") from error
        return found

    def _topics(self) -> dict[str, TopicMetadata]:
        try:
            return self._admin.list_topics(timeout=self._timeout_s).topics
        except KafkaException as error:
            raise UnavailableError("Kafka", self._address, describe(error)) from error

    def _diff(self, topics: Sequence[Topic]) -> list[Change]:
        existing = self._topics()
        present = [t for t in topics if t.name in existing]
        configs: dict[str, dict[str, str]] = {}
        if present:
            resources = [ConfigResource(ResourceType.TOPIC, t.name) for t in present]
            described = self._call(
                self._admin.describe_configs(resources),
                # Another broker than the one that listed the topics answers, and has not heard of a new one yet.
                harmless=KafkaError.UNKNOWN_TOPIC_OR_PART,
            )
            for resource, entries in described.items():
                configs[resource.name] = {name: entry.value for name, entry in entries.items()}
        changes: list[Change] = []
        for topic in topics:
            if topic.name not in configs:
                settings = ", ".join(f"{k}={v}" for k, v in sorted(topic.config.items()))
                changes.append(Change(topic.name, "create", f"{topic.partitions} partitions, {settings}"))
            else:
                changes += _compare(topic, len(existing[topic.name].partitions), configs[topic.name])
        return changes

    def _apply(self, topics: Sequence[Topic], replication: int | None) -> list[Change]:
        changes = self._diff(topics)
        declared = {t.name: t for t in topics}
        create = [declared[c.topic] for c in changes if c.action == "create"]
        if create:
            brokers = len(self._admin.list_topics(timeout=self._timeout_s).brokers)
            factor = replication or min(3, brokers)
            durable = {"min.insync.replicas": "2"} if factor >= 3 else {}
            self._call(
                self._admin.create_topics(
                    [NewTopic(t.name, t.partitions, factor, config=t.config | durable) for t in create],
                    operation_timeout=self._timeout_s,
                ),
                # Somebody else applies at the same time.
                harmless=KafkaError.TOPIC_ALREADY_EXISTS,
            )
        grow = [NewPartitions(c.topic, c.partitions) for c in changes if c.action == "add_partitions"]
        if grow:
            self._call(self._admin.create_partitions(grow), harmless=KafkaError.INVALID_PARTITIONS)
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                c.topic,
                incremental_configs=[
                    ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in c.config
                ],
            )
            for c in changes
            if c.action == "set_config"
        ]
        if resources:
            self._call(self._admin.incremental_alter_configs(resources))
        self._await(topics)
        return changes

    def _await(self, topics: Sequence[Topic]) -> None:
        """Wait until the brokers know what the controller has agreed to."""
        deadline = time.monotonic() + self._timeout_s
        while left := [c for c in self._diff(topics) if c.action != "keep_partitions"]:
            if time.monotonic() > deadline:
                detail = f"the brokers do not show the change of {left[0].topic} ({left[0].detail})"
                raise UnavailableError("Kafka", self._address, detail)
            time.sleep(POLL_S)

    def _lag(self, group: str, topic: Topic) -> int:
        metadata = self._topics().get(topic.name)
        if metadata is None:
            return 0
        partitions = [TopicPartition(topic.name, p) for p in metadata.partitions]
        committed = self._committed(group, partitions)
        ends = self._call(self._admin.list_offsets({p: OffsetSpec.latest() for p in partitions}))
        starts = self._call(self._admin.list_offsets({p: OffsetSpec.earliest() for p in partitions}))
        end = {p.partition: r.offset for p, r in ends.items()}
        start = {p.partition: r.offset for p, r in starts.items()}
        return sum(end[p.partition] - (p.offset if p.offset >= 0 else start[p.partition]) for p in committed)

    def _committed(self, group: str, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """The group's offsets, asked for by a consumer that never joins it.

        ``AdminClient.list_consumer_group_offsets`` would ask the same, but ends the process (a null pointer in
        ``rd_kafka_handle_OffsetFetch``, librdkafka 2.16) when the answer is that the coordinator is elsewhere or still loading.
        """
        if group not in self._readers:
            self._readers[group] = new_consumer(
                self._kafka, CLIENT_ID, {"group.id": group, "enable.auto.commit": False}
            )
        try:
            found = self._readers[group].committed(partitions, timeout=self._timeout_s)
        except KafkaException as error:
            raise UnavailableError("Kafka", self._address, describe(error)) from error
        for one in found:
            if one.error is not None:
                raise UnavailableError("Kafka", self._address, describe(one.error))
        return list(found)


def _compare(topic: Topic, partitions: int, config: dict[str, str]) -> list[Change]:
    changes: list[Change] = []
    if partitions < topic.partitions:
        detail = f"{partitions} -> {topic.partitions} partitions"
        changes.append(Change(topic.name, "add_partitions", detail, partitions=topic.partitions))
    elif partitions > topic.partitions:
        detail = f"has {partitions} partitions, {topic.partitions} declared: kept, partitions are never lowered"
        changes.append(Change(topic.name, "keep_partitions", detail))
    differing = tuple((k, v) for k, v in sorted(topic.config.items()) if config.get(k) != v)
    if differing:
        detail = ", ".join(f"{k}: {config.get(k)} -> {v}" for k, v in differing)
        changes.append(Change(topic.name, "set_config", detail, config=differing))
    return changes
