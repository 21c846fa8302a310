"""What a run runs on: the servers as they start by themselves, or with everything on that keeps strangers out.

Contract: :meth:`Site.start` starts the servers and prepares them. A :class:`SecuredSite` has TLS and a user with its grants for
every service on every server, an API key at the gateway and signed verdicts (as every local stack), and encrypts what is stored.
"""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tests.chaos.access import Access
from tests.support.secured_stack import SecuredStack

from perdure.chassis import at_rest
from perdure.chassis.kafka.settings import options_of
from perdure.cli.provision import ensure_key, provision
from perdure.local.key_file import read_key_file
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack

BROKERS = 3
LOCAL = {"kafka_bootstrap_servers": None, "mongodb_uri": None, "opensearch_url": None, "local_kafka_heap_mb": 384}


class Site:
    """Servers without security."""

    def __init__(self) -> None:
        self.stack = self._stack(LocalSettings().model_copy(update=LOCAL))
        self.environment: dict[str, str] = {}
        """The variables of whoever prepares and examines the servers."""
        self.access: Access

    def start(self) -> None:
        """Start and prepare the servers."""
        self.stack.start()
        self.environment = self.stack.environment() | self._database()
        provision(self.environment)
        self.access = self._access()

    def stop(self) -> None:
        """Stop everything that runs here."""
        self.stack.stop()

    def settings_of(self, service: str) -> Mapping[str, str]:
        """The variables of a service (``agent_step``), beside its own settings."""
        del service  # nobody is asked who they are
        return self._database()

    def kafka_of_clients(self) -> Mapping[str, str]:
        """The variables of a client that may read and write every topic."""
        return {}

    def _stack(self, settings: LocalSettings) -> Stack:
        return Stack(settings, ephemeral=True, brokers=BROKERS)

    def _database(self) -> dict[str, str]:
        if "PERDURE_MONGODB_URI" in self.environment:
            return {"PERDURE_MONGODB_URI": self.environment["PERDURE_MONGODB_URI"]}
        server = self.stack.environment()["PERDURE_MONGODB_URI"].rpartition("/")[0]
        return {"PERDURE_MONGODB_URI": f"{server}/chaos_{uuid.uuid4().hex[:8]}"}

    def _access(self) -> Access:
        return Access(
            mongodb_uri=self.environment["PERDURE_MONGODB_URI"],
            kafka={"bootstrap.servers": self.environment["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]},
            opensearch_url=self.environment["PERDURE_OPENSEARCH_URL"],
        )


class SecuredSite(Site):
    """Servers with everything on."""

    stack: SecuredStack

    def __init__(self) -> None:
        super().__init__()
        key = base64.b64encode(os.urandom(32)).decode()
        self._shared = {"PERDURE_ENCRYPTION_KEYS": f"chaos:{key}"}

    def stop(self) -> None:
        """Stop everything that runs here, and forget the keys of this process."""
        at_rest.switch_on(None)
        super().stop()

    def settings_of(self, service: str) -> Mapping[str, str]:
        """The variables of a service: its own user everywhere."""
        return self.stack.environment_of(service.replace("_", "-")) | self._shared | {"PERDURE_AUTH": "keys"}

    def kafka_of_clients(self) -> Mapping[str, str]:
        """The variables of a client that may read and write every topic."""
        return self.stack.kafka.environment("admin")

    def _stack(self, settings: LocalSettings) -> SecuredStack:
        return SecuredStack(settings, BROKERS)

    def _database(self) -> dict[str, str]:
        return self._shared

    def _access(self) -> Access:
        ensure_key(self.environment, self.stack.folder)
        key = read_key_file(self.stack.folder) or ""
        kafka: dict[str, Any] = options_of(self.stack.kafka.settings("admin", "PLAIN"))
        ca_file = quote(str(self.stack.authority.ca_file), safe="")
        return Access(
            mongodb_uri=f"{self.stack.mongodb.uri('root')}&tls=true&tlsCAFile={ca_file}",
            kafka=kafka,
            opensearch_url=f"https://{self.stack.opensearch.address}",
            opensearch_tls=self.stack.opensearch.admin_context(),
            credentials={"x-api-key": key},
        )
