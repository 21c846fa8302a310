"""Apache Kafka as child processes: KRaft, each node is broker and controller, data kept. One node, or a cluster of three.

Scope: settings for a laptop and for tests. Topics are never created by accident (auto-create is off); the internal
topics have few partitions so that the first consumer group does not wait for fifty of them.
"""

from __future__ import annotations

import base64
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from perdure.local.errors import ServerFailedError
from perdure.local.java import jvm_flags
from perdure.local.process import Launch, last_lines
from perdure.local.resources import HOST

NAME: Final = "kafka"
_LOGGING: Final = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
logger.server.name = kafka.server
logger.server.level = info
logger.configuration.name = kafka.server.KafkaConfig
logger.configuration.level = warn
"""
_PROPERTIES: Final = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
background.threads=4
num.partitions=4
default.replication.factor={replication}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replication}
offsets.topic.num.partitions=8
transaction.state.log.replication.factor={replication}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={replication}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=2
group.initial.rebalance.delay.ms=0
group.consumer.heartbeat.interval.ms=1000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.session.timeout.ms=6000
group.consumer.min.session.timeout.ms=3000
log.segment.bytes=134217728
metric.reporters=
"""


def prepare(
    folder: Path,
    log: Path,
    *,
    jars: Path,
    java_home: Path,
    port: int,
    controller_ports: Mapping[int, int],
    node: int = 1,
    heap_mb: int,
    flags: Sequence[str],
) -> Launch:
    """Write the configuration, format the storage once, and say how to start.

    :param controller_ports: of all nodes of the cluster, by node id. With three or more everything is replicated three times
        and written to two at least.
    :param node: the id of this one.
    :param flags: of the Java virtual machine.

    :raises ServerFailedError: the storage can not be formatted.
    """
    folder = folder.absolute()
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    replication = min(3, len(controller_ports))
    filled = _PROPERTIES.format(
        node=node,
        host=HOST,
        port=port,
        controller_port=controller_ports[node],
        voters=",".join(f"{one}@{HOST}:{its_port}" for one, its_port in sorted(controller_ports.items())),
        replication=replication,
        in_sync=max(1, replication - 1),
        logs=data,
    )
    properties.write_text(filled)
    (folder / "log4j2.properties").write_text(_LOGGING)
    java = [str(java_home / "bin" / "java"), f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}"]
    java += ["-Djava.awt.headless=true", "-Dlog4j2.disable.jmx=true", "-cp", f"{jars}/*"]
    _format_once(folder, java, properties, log, shared=len(controller_ports) > 1)
    options = [f"-Xms{heap_mb // 2}m", f"-Xmx{heap_mb}m", *flags]
    return Launch(folder.name, [java[0], *options, *java[1:], "kafka.Kafka", str(properties)], folder, log)


def _format_once(folder: Path, java: list[str], properties: Path, log: Path, *, shared: bool) -> None:
    done = folder / "formatted"
    if done.exists():
        return
    cluster = folder / "cluster.id"
    if not cluster.exists():
        # The nodes of a cluster are formatted at the same time and must agree: derived from the folder that they share.
        identity = uuid.uuid5(uuid.NAMESPACE_URL, str(folder.parent)) if shared else uuid.uuid4()
        cluster.write_text(base64.urlsafe_b64encode(identity.bytes).decode().rstrip("="))
    command = [java[0], *jvm_flags(short_lived=True), *java[1:], "kafka.tools.StorageTool", "format"]
    # An identifier may begin with a minus sign, so it must not be an argument of its own.
    command += [f"--cluster-id={cluster.read_text()}", f"--config={properties}", "--ignore-formatted"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        result = subprocess.run(command, stdout=output, stderr=output, check=False)
    if result.returncode:
        raise ServerFailedError(NAME, f"could not format its storage in {folder}", log, last_lines(log))
    done.touch()
