"""Settings shared by all services: one frozen object, parsed once from the environment (``PERDURE_*``), passed in.

Each service's ``settings.py`` extends :class:`ServiceSettings` with its own fields.
"""

from __future__ import annotations

import os
import socket

from pydantic import Field, FilePath, SecretStr

from perdure.chassis.access import MongodbSettings, OpenSearchSettings
from perdure.chassis.kafka.settings import KafkaSettings
from perdure.schemas.thread_ids import TENANT_PATTERN, UNQUALIFIED


class ServiceSettings(OpenSearchSettings, MongodbSettings, KafkaSettings):
    """Addresses and limits that every service has.

    Every field is read from the environment variable of the same name in upper case with the prefix ``PERDURE_``.
    """

    archive_url: str | None = None
    """Where ended threads are archived: a folder, `s3://bucket/prefix`, `gs://bucket/prefix` or
    `az://account/container/prefix`. Without one nothing is archived. A folder must outlive the process, and be the same for all
    who archive or rebuild."""
    archive_options: dict[str, SecretStr] = Field(default_factory=dict)
    """Further settings of that store as JSON, by obstore's names: `{"endpoint": "https://...", "region": "..."}`. Credentials are
    found as the store's own tools find them, e.g. `AWS_ACCESS_KEY_ID`."""
    archive_ca_file: FilePath | None = None
    """Certificates (PEM) that the server of that store is verified with, besides the system's."""
    encryption_keys: SecretStr | None = None
    """Keys that stored values are encrypted with, as `id:key`, several separated by commas or lines: the first encrypts, all
    decrypt. A key is 32 bytes in base64 (`openssl rand -base64 32`). The same for all services. Without keys nothing is
    encrypted."""
    tenant: str = Field(default=UNQUALIFIED, pattern=TENANT_PATTERN)
    """The tenant of requests that name none."""
    public_url: str | None = Field(default=None, pattern=r"^https?://[^/]+")
    """Where people reach the gateway, as links in notices name it: ``https://agents.example.com``."""
    mail_domain: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.-]{1,255}$")
    """The domain of reply addresses; its mail must reach ``POST /inbound/email``."""
    mail_to: tuple[str, ...] | None = None
    """Who may be mailed, as JSON: domains and addresses, `["example.com", "ann@partner.example"]`; the same for gateway and
    notifier. Without it everybody may: whoever may subscribe then decides to whom this installation sends mail.
    """
    health_host: str = "127.0.0.1"
    """The address that ``health_port`` is opened on; ``0.0.0.0`` in a container."""
    health_port: int = Field(default=0, ge=0, le=65535)
    """Where ``/ok``, ``/ready`` and ``/metrics`` are served; 0 switches them off."""
    log_level: str = "INFO"
    """``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``."""
    log_format: str = Field(default="json", pattern="^(json|console)$")
    """``json``: one object a line; ``console``: for people."""
    shutdown_grace_s: float = Field(default=25.0, gt=0)
    """How long a service may take to end after SIGTERM, in seconds."""
    instance: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """Names this process in logs, leases and event sources."""

    @property
    def archive_store_options(self) -> dict[str, str]:
        """The archive store's further settings, their secrets readable."""
        return {name: value.get_secret_value() for name, value in self.archive_options.items()}


class LinkSettings(ServiceSettings):
    """Settings of the services that make and open links to answer questions. Workers, which run the code of graphs, are none."""

    link_secret: SecretStr | None = None
    """What links to answer questions are signed with: 32 characters at least (``openssl rand -hex 32``), the same for gateway and
    notifier, and for nobody else: who has it can answer every question. Several, separated by commas: the first signs, all are
    accepted. Without one no links are offered."""
