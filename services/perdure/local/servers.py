"""The three servers of the stack as plain data and functions: ports, memory, how to fetch and launch, how to probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from perdure.local import kafka, mongodb, opensearch
from perdure.local.display import Display
from perdure.local.fetch import fetch_archive, fetch_jars
from perdure.local.java import java_home, jvm_flags
from perdure.local.pins import load_pins
from perdure.local.probes import probe_kafka, probe_mongodb, probe_opensearch
from perdure.local.process import Launch
from perdure.local.resources import HOST
from perdure.local.secantus import secantus
from perdure.local.settings import LocalSettings

SERVERS: Final = (kafka.NAME, mongodb.NAME, opensearch.NAME)

ADDRESS_FIELDS: Final = {
    kafka.NAME: "kafka_bootstrap_servers",
    mongodb.NAME: "mongodb_uri",
    opensearch.NAME: "opensearch_url",
}
"""The setting that replaces a local server by an address."""

PORT_FIELDS: Final[dict[str, dict[str, str]]] = {
    kafka.NAME: {"port": "local_kafka_port", "controller": "local_kafka_controller_port"},
    mongodb.NAME: {"port": "local_mongodb_port"},
    opensearch.NAME: {"port": "local_opensearch_port"},
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server keeps its files and listens."""

    folder: Path
    log: Path
    ports: dict[str, int]
    short_lived: bool = False
    """Start cheaply, whatever it costs later."""
    controller_ports: Mapping[int, int] = field(default_factory=dict)
    """Of all brokers of a cluster, by node id; empty for a single one."""
    node: int = 1


@dataclass(frozen=True, slots=True)
class Prepared:
    """A server that can be started now."""

    launch: Launch
    data: Path


def variable(field: str) -> str:
    """The environment variable of a field of :class:`LocalSettings`."""
    return f"PERDURE_{field.upper()}"


def kind_of(name: str) -> str:
    """Which of :data:`SERVERS` a process is: the brokers of a cluster are ``kafka-1``, ``kafka-2``, ``kafka-3``."""
    return name.partition("-")[0]


def external_address(name: str, settings: LocalSettings) -> str | None:
    """The address that replaces a local server, if one is set."""
    address: str | None = getattr(settings, ADDRESS_FIELDS[kind_of(name)])
    return address


def local_address(name: str, port: int) -> str:
    """What clients of the local server use."""
    return {
        kafka.NAME: f"{HOST}:{port}",
        mongodb.NAME: f"mongodb://{HOST}:{port}/perdure",
        opensearch.NAME: f"http://{HOST}:{port}",
    }[kind_of(name)]


def memory_mb(name: str, settings: LocalSettings) -> int:
    """What a server needs in memory, in MB: its heap or cache and what it takes beside it."""
    return {
        kafka.NAME: settings.local_kafka_heap_mb + 200,
        mongodb.NAME: settings.local_mongodb_cache_mb // 2 + 100,
        opensearch.NAME: settings.local_opensearch_heap_mb + 350,
    }[kind_of(name)]


def fetch_all(settings: LocalSettings, display: Display) -> None:
    """Bring everything that the servers need into the cache, so that a later start needs no network."""
    cache, pins = settings.cache_dir.absolute(), load_pins()
    java_home(settings)
    with ThreadPoolExecutor() as pool:
        fetched = [
            pool.submit(fetch_jars, pins[kafka.NAME], cache, display),
            pool.submit(fetch_archive, pins[opensearch.NAME], cache, display),
            pool.submit(secantus, cache, display),
        ]
    for each in fetched:
        each.result()


def prepare(name: str, place: Place, settings: LocalSettings, display: Display) -> Prepared:
    """Fetch what is missing and write the configuration."""
    return _PREPARE[kind_of(name)](place, settings, display)


def _prepare_kafka(place: Place, settings: LocalSettings, display: Display) -> Prepared:
    home = java_home(settings)
    launch = kafka.prepare(
        place.folder,
        place.log,
        jars=fetch_jars(load_pins()[kafka.NAME], settings.cache_dir.absolute(), display),
        java_home=home,
        port=place.ports["port"],
        controller_ports=place.controller_ports or {place.node: place.ports["controller"]},
        node=place.node,
        heap_mb=settings.local_kafka_heap_mb,
        flags=jvm_flags(short_lived=place.short_lived),
    )
    return Prepared(launch, place.folder)


def _prepare_mongodb(place: Place, settings: LocalSettings, display: Display) -> Prepared:
    launch = mongodb.prepare(
        place.folder,
        place.log,
        program=secantus(settings.cache_dir.absolute(), display),
        port=place.ports["port"],
        cache_mb=settings.local_mongodb_cache_mb,
    )
    return Prepared(launch, place.folder)


def _prepare_opensearch(place: Place, settings: LocalSettings, display: Display) -> Prepared:
    home = java_home(settings)
    pins = load_pins()[opensearch.NAME]
    launch, data = opensearch.prepare(
        place.folder,
        place.log,
        home=fetch_archive(pins, settings.cache_dir.absolute(), display),
        pins=pins,
        java_home=home,
        port=place.ports["port"],
        heap_mb=settings.local_opensearch_heap_mb,
        flags=jvm_flags(short_lived=place.short_lived),
    )
    return Prepared(launch, data)


def probe(name: str, port: int, brokers: int = 1) -> str | None:
    """None when the local server is ready (a broker: when it knows so many), else what is missing."""
    kind = kind_of(name)
    if kind == opensearch.NAME:
        return probe_opensearch(local_address(name, port))
    return probe_mongodb(HOST, port) if kind == mongodb.NAME else probe_kafka(HOST, port, brokers)


_PREPARE: Final[dict[str, Callable[[Place, LocalSettings, Display], Prepared]]] = {
    kafka.NAME: _prepare_kafka,
    mongodb.NAME: _prepare_mongodb,
    opensearch.NAME: _prepare_opensearch,
}
