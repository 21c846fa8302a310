"""The local servers with everything on: TLS on every wire, a user with its grants for every service.

Kafka by SCRAM with access control lists, the MongoDB-compatible server by SCRAM with roles, OpenSearch with its security plugin.
The users, their roles and lists are those of ``perdure grants print``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.support import secured_kafka, secured_mongodb, secured_opensearch
from tests.support.certificates import Authority
from tests.support.secured_kafka import SecuredKafka, bindings
from tests.support.secured_mongodb import DATABASE, SecuredMongodb
from tests.support.secured_opensearch import SecuredOpenSearch

from perdure.chassis.mongo import ping_blocking
from perdure.cli.grants import opensearch as opensearch_roles
from perdure.cli.grants import role
from perdure.local import kafka, mongodb, opensearch, servers
from perdure.local.display import Display
from perdure.local.resources import free_port
from perdure.local.servers import SERVERS, Place, Prepared, kind_of
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack
from perdure.schemas.grants import SERVICES

USERS = ("admin", *SERVICES)
NOWHERE = "127.0.0.1:9"
"""Where a service that has no business with a server finds nothing."""


class SecuredStack(Stack):
    """An ephemeral stack.

    Args:
        settings: Folders, ports, sizes.
        brokers: Of Kafka.

    """

    def __init__(self, settings: LocalSettings, brokers: int = 3) -> None:
        super().__init__(settings, ephemeral=True, brokers=brokers)
        self.authority = Authority(self.folder / "certificates")
        self.authority.issue_joined("broker")  # servers start at the same time, and read it
        self._tls_ports = {name: free_port() for name in self._cluster}
        self._granted = False

    @property
    def kafka(self) -> SecuredKafka:
        """The brokers."""
        ports = [its["port"] for its in self._cluster.values()]
        return SecuredKafka(self.authority, ports[0], next(iter(self._tls_ports.values())), *ports[1:])

    @property
    def mongodb(self) -> SecuredMongodb:
        """The MongoDB-compatible server."""
        return SecuredMongodb(self.authority, self._port_of(mongodb.NAME))

    @property
    def opensearch(self) -> SecuredOpenSearch:
        """OpenSearch."""
        return SecuredOpenSearch(self.authority, self._port_of(opensearch.NAME))

    def start(self, servers: Sequence[str] = SERVERS) -> None:
        """As of every stack; the first time, everybody is granted what ``perdure grants print`` says."""
        super().start(servers)
        if self._granted:
            return
        self._granted = True
        self.kafka.add_scram(USERS)
        self.kafka.grant([one for name in SERVICES for one in bindings(name)])
        self.opensearch.run(opensearch_roles(dict(SERVICES)))
        for name, grants in SERVICES.items():
            if grants.collections:
                self.mongodb.add(name, role(name, grants, DATABASE))
            if grants.indices:
                self.opensearch.add(name)

    def environment(self) -> dict[str, str]:
        """The variables of whoever prepares and examines the servers."""
        return super().environment() | self.environment_of("operator")

    def environment_of(self, user: str) -> dict[str, str]:
        """The variables by which a service connects; without a grant it has no user."""
        grants = SERVICES[user]
        found = {"PERDURE_MONGODB_URI": f"mongodb://{NOWHERE}/", "PERDURE_OPENSEARCH_URL": f"https://{NOWHERE}"}
        found |= self.kafka.environment(user)
        if grants.collections:
            found |= self.mongodb.environment(user)
        if grants.indices:
            found |= self.opensearch.environment(user)
        return found

    def _port_of(self, name: str) -> int:
        return self.state.read().records[name].ports["port"]

    def _prepare(self, name: str, place: Place, settings: LocalSettings, display: Display) -> Prepared:
        kind, port = kind_of(name), place.ports["port"]
        if kind == opensearch.NAME:
            heap_mb = settings.local_opensearch_heap_mb
            return Prepared(
                *secured_opensearch.prepare(place.folder, place.log, self.authority, port=port, heap_mb=heap_mb)
            )
        prepared = servers.prepare(name, place, settings, display)
        if kind == kafka.NAME:
            properties = place.folder / "server.properties"
            ports = {"sasl": port, "tls": self._tls_ports[name], "controller": place.ports["controller"]}
            secured_kafka.secure(properties, self.authority, USERS, **ports)
            return prepared
        argv = [*prepared.launch.argv]
        done = place.folder / "has-root"
        if not done.exists():
            secured_mongodb.add_root(argv, place.log, port)
            done.touch()
        argv += secured_mongodb.secured_arguments(self.authority)
        return replace(prepared, launch=replace(prepared.launch, argv=argv))

    def _probe(self, name: str, port: int, brokers: int = 1) -> str | None:
        kind = kind_of(name)
        if kind == opensearch.NAME:
            return None if SecuredOpenSearch(self.authority, port).answers() else "no answer"
        if kind == mongodb.NAME:
            return ping_blocking(SecuredMongodb(self.authority, port).access("root"), 2)
        known = SecuredKafka(self.authority, port, port).brokers()
        return None if known >= brokers else f"{known or 'no'} broker is registered yet"
