"""Apache Kafka as one child process: KRaft, one node that is broker and controller, data kept.

Scope: settings for a laptop and for tests. Topics are never created by accident (auto-create is off); the internal
topics have few partitions so that the first consumer group does not wait for fifty of them.
"""

from __future__ import annotations

import base64
import subprocess
import uuid
from collections.abc import Sequence
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
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
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
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
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
    controller_port: int,
    heap_mb: int,
    flags: Sequence[str],
) -> Launch:
    """Write the configuration, format the storage once, and say how to start.

    :param flags: of the Java virtual machine.

    :raises ServerFailedError: the storage can not be formatted.
    """
    folder = folder.absolute()
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    properties.write_text(_PROPERTIES.format(host=HOST, port=port, controller_port=controller_port, logs=data))
    (folder / "log4j2.properties").write_text(_LOGGING)
    java = [str(java_home / "bin" / "java"), f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}"]
    java += ["-Djava.awt.headless=true", "-Dlog4j2.disable.jmx=true", "-cp", f"{jars}/*"]
    _format_once(folder, java, properties, log)
    options = [f"-Xms{heap_mb // 2}m", f"-Xmx{heap_mb}m", *flags]
    return Launch(NAME, [java[0], *options, *java[1:], "kafka.Kafka", str(properties)], folder, log)


def _format_once(folder: Path, java: list[str], properties: Path, log: Path) -> None:
    done = folder / "formatted"
    if done.exists():
        return
    cluster = folder / "cluster.id"
    if not cluster.exists():
        cluster.write_text(base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))
    command = [java[0], *jvm_flags(short_lived=True), *java[1:], "kafka.tools.StorageTool", "format"]
    # An identifier may begin with a minus sign, so it must not be an argument of its own.
    command += [f"--cluster-id={cluster.read_text()}", f"--config={properties}", "--ignore-formatted"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        result = subprocess.run(command, stdout=output, stderr=output, check=False)
    if result.returncode:
        raise ServerFailedError(NAME, f"could not format its storage in {folder}", log, last_lines(log))
    done.touch()
