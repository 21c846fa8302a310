"""OpenSearch as one child process: a single node, data kept.

The start script of the distribution starts Java three times; here the server's main class is started directly, with the
flags that the script would compute, minus the incubating vector module, which the packaged Java runtime does not have.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from perdure.local.account import reachable_data, reachable_program, unprivileged_account
from perdure.local.fetch import STAMP, is_verified
from perdure.local.pins import PinSet, sha256_of
from perdure.local.process import Launch
from perdure.local.resources import HOST

NAME: Final = "opensearch"
_CONFIGURATION: Final = """\
cluster.name: perdure
node.name: perdure
path.data: {data}/data
path.logs: {data}/logs
http.host: {host}
http.port: {port}
transport.host: {host}
transport.port: 0
discovery.type: single-node
cluster.routing.allocation.disk.threshold_enabled: false
action.auto_create_index: false
node.processors: 2
"""
_LOGGING: Final = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""
_FLAGS: Final = (  # what the start script of this version passes
    "-Xss1m",
    "-XX:-OmitStackTraceInFastThrow",
    "-Dopensearch.networkaddress.cache.ttl=60",
    "-Dopensearch.networkaddress.cache.negative.ttl=10",
    "-Djava.awt.headless=true",
    "-Dfile.encoding=UTF-8",
    "-Djna.nosys=true",
    "-Dio.netty.noUnsafe=true",
    "-Dio.netty.noKeySetOptimization=true",
    "-Dio.netty.recycler.maxCapacityPerThread=0",
    "-Dio.netty.allocator.numDirectArenas=0",
    "-Dlog4j.shutdownHookEnabled=false",
    "-Dlog4j2.disable.jmx=true",
    "-Djava.locale.providers=SPI,CLDR",
    "-Dorg.apache.lucene.store.MMapDirectory.sharedArenaMaxPermits=1",
)


def prepare(
    folder: Path,
    log: Path,
    *,
    home: Path,
    pins: PinSet,
    java_home: Path,
    port: int,
    heap_mb: int,
    flags: Sequence[str],
) -> tuple[Launch, Path]:
    """Write the configuration and say how to start, and where the data really is (see :mod:`perdure.local.account`)."""
    account = unprivileged_account()
    modules = java_home / "lib" / "modules"
    java_name = f"java-{modules.stat().st_size}-{sha256_of(java_home / 'release')[:12]}"
    java_home = reachable_program(java_home, java_name, "lib/modules", account)
    copy_name = f"{NAME}-{pins.version}-{pins.digest[:12]}"
    home = reachable_program(home, copy_name, STAMP, account, lambda copy: is_verified(copy, pins))
    data = reachable_data(folder.absolute(), account)
    configuration = data / "config"
    configuration.mkdir(exist_ok=True)
    for part in ("data", "logs", "tmp"):
        (data / part).mkdir(exist_ok=True)
    (configuration / "opensearch.yml").write_text(_CONFIGURATION.format(data=data, host=HOST, port=port))
    (configuration / "log4j2.properties").write_text(_LOGGING)
    shutil.copy(home / "config" / "jvm.options", configuration / "jvm.options")
    if account:
        for path in [*configuration.iterdir(), *data.iterdir()]:
            path.chmod(0o755 if path.is_dir() else 0o644)
            account.own(path)
    argv = [
        str(java_home / "bin" / "java"),
        f"-Xms{heap_mb}m",
        f"-Xmx{heap_mb}m",
        f"-XX:MaxDirectMemorySize={heap_mb // 2}m",
        *flags,
        *_FLAGS,
        f"-Djava.io.tmpdir={data / 'tmp'}",
        f"-XX:ErrorFile={data / 'logs' / 'hs_err_pid%p.log'}",
        f"-javaagent:{home / 'agent' / 'opensearch-agent.jar'}",
        "--add-opens=java.base/java.nio=org.apache.arrow.memory.core,ALL-UNNAMED",
        f"-Dopensearch.path.home={home}",
        f"-Dopensearch.path.conf={configuration}",
        "-Dopensearch.distribution.type=zip",
        "-Dopensearch.bundled_jdk=false",
        "-cp",
        f"{home / 'lib'}/*",
        "org.opensearch.bootstrap.OpenSearch",
    ]
    env = {"OPENSEARCH_TMPDIR": str(data / "tmp"), "HOME": str(data)}
    return Launch(NAME, argv, data, log, env, account), data
