"""The gateway's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, FilePath, SecretStr, model_validator

from perdure.chassis.settings import LinkSettings
from perdure.gateway.auth.mode import AuthMode
from perdure.gateway.http.preferences import StartStatus
from perdure.schemas.notices import WebhookFormat


class GatewaySettings(LinkSettings):
    """Where the gateway listens and what it allows."""

    gateway_host: str = "127.0.0.1"
    """The address to listen on; ``0.0.0.0`` in a container."""
    gateway_port: int = Field(default=8123, ge=0, le=65535)
    """0 takes a free one; the log says which."""
    gateway_tls_cert_file: FilePath | None = None
    """The gateway's certificate and those that lead from it to its authority (PEM): with it the port speaks TLS alone. Read again
    when it changes, and on SIGHUP. ``PERDURE_HEALTH_PORT`` serves ``/ok``, ``/ready`` and ``/metrics`` without TLS."""
    gateway_tls_key_file: FilePath | None = None
    """The private key of the gateway's certificate (PEM)."""
    auth: AuthMode = AuthMode.AUTO
    """Whether everybody must say who they are. ``keys``: always. ``none``: never. ``auto``: as soon as an API key exists or an
    issuer is configured; until then a gateway on loopback is open to local programs, and one on another address does not start."""
    auth_issuers_file: Path | None = None
    """A TOML file of the issuers of JSON Web Tokens that the gateway trusts (docs/security.md)."""
    auth_session_s: float = Field(default=8 * 3600, ge=60)
    """How long a person stays signed in at the console, in seconds."""
    langgraph_config: Path = Path("langgraph.json")
    """The project whose ``auth`` handlers say who calls (docs/langgraph-json.md); without this file there are none."""
    auth_user_tenant: str | None = None
    """The field of a user of the ``auth`` handlers that names the tenant. Without it all users act for ``PERDURE_TENANT``."""
    auth_handlers_timeout_s: float = Field(default=5.0, gt=0)
    """How long a request waits for an ``auth`` handler before it is answered 503, in seconds."""
    gateway_body_limit_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)
    """A larger request body is refused with 413."""
    gateway_body_limit_values: int = Field(default=250_000, ge=1_000)
    """A JSON body with more values and keys is refused with 413 before it is parsed; each takes up to a hundred bytes of memory."""
    gateway_bodies_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """Bytes of request bodies over 64 KiB that are read at once, half of them for one tenant, at least two of the largest. Others
    wait."""
    gateway_headers_timeout_s: float = Field(default=15.0, gt=0)
    """A connection that has not sent the headers of its first request after so long is closed, in seconds."""
    gateway_idle_timeout_s: float = Field(default=75.0, gt=0)
    """A connection between two requests is closed after so long, and one whose client does not take its answer, in seconds."""
    gateway_watchers: int = Field(default=2_000, ge=2)
    """Answers that wait for a run's end or stream its events at once, half of them for one tenant. Further ones are refused with
    503."""
    gateway_store_timeout_s: float = Field(default=3.0, gt=0)
    """How long a request waits for the database before it is answered 503, in seconds."""
    gateway_start_status: StartStatus = "auto"
    """How a start is answered. ``auto``: 202, and 200 to the ``fetch`` of browsers and Node. ``200``: 200 to all. The header
    ``Prefer`` of a request decides before this setting."""
    gateway_webhook_format: WebhookFormat = WebhookFormat.STANDARD
    """How the end of a run is told to its ``webhook`` where the request has no ``webhook_format``. ``standard``: Standard Webhooks.
    ``langgraph``: the run with its values, as the LangGraph Agent Server posts it."""
    cors_allow_origins: str = Field(default="", pattern=r"^ *(\*|[a-z]+://[^/, ]+/?( *, *[a-z]+://[^/, ]+/?)*)? *$")
    """Origins whose web pages may use the API: ``https://app.example.com``, several separated by commas; ``*``: all. Pages of
    ``PERDURE_PUBLIC_URL`` may, and of all ports of this machine where the gateway listens on loopback."""
    gateway_hosts: str = ""
    """Names under which a gateway that asks nobody who calls answers, separated by commas, besides loopback's and the one in
    ``PERDURE_PUBLIC_URL``; ``*``: all. Under another name it answers 403, since a web page may have given it this address."""
    gateway_join_timeout_s: float = Field(default=60.0, gt=0)
    """How long ``join?timeout=`` waits for a run's end at most, in seconds."""
    gateway_update_timeout_s: float = Field(default=30.0, gt=0)
    """How long ``POST /threads/{id}/state`` waits for the worker that changes the state, in seconds. The update is durable, so it
    may happen later; the answer then says how to find out."""
    gateway_heartbeat_s: float = Field(default=5.0, gt=0)
    """How often an answer that waits for the end of a run sends a newline, and a stream a comment, in seconds."""
    gateway_run_page: int = Field(default=10, ge=1, le=1000)
    """Runs in a list that names no limit."""
    gateway_history_page: int = Field(default=10, ge=1, le=1000)
    """States in a history that names no limit."""
    gateway_registry_refresh_s: float = Field(default=5.0, gt=0)
    """How often the registered graphs are read again, in seconds."""
    gateway_batch_items_limit: int = Field(default=1_000_000, ge=1)
    """Items of one batch at most."""
    gateway_upload_limit_bytes: int = Field(default=8 * 1024**3, ge=1024)
    """An NDJSON upload of more bytes, after decompression, is refused with 413."""
    gateway_upload_idle_s: float = Field(default=60.0, gt=0)
    """An upload that sends nothing for so long is given up, in seconds."""
    quotas_file: Path | None = None
    """A TOML or JSON file with the limits of tenants (docs/security-tenants.md). Without one every tenant has the defaults."""
    inbound_secret: SecretStr | None = None
    """What the mail server sends as ``Authorization: Bearer ...`` to ``POST /inbound/email``: needed where ``PERDURE_MAIL_DOMAIN``
    is set, without which no mail is taken."""
    inbound_limit_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)
    """A larger mail is refused with 413."""

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.gateway_tls_cert_file is None) != (self.gateway_tls_key_file is None):
            raise ValueError("TLS needs both PERDURE_GATEWAY_TLS_CERT_FILE and PERDURE_GATEWAY_TLS_KEY_FILE")
        return self
