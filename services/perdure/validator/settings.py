"""Settings of the validator."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr

from perdure.chassis.settings import ServiceSettings
from perdure.chassis.signatures import SigningSettings


class Connection(BaseModel):
    """A MongoDB deployment or an OpenSearch cluster that premises are read from, with certificates and credentials of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: SecretStr
    ca_file: FilePath | None = None
    cert_key_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    api_key: SecretStr | None = None


class ValidatorSettings(SigningSettings, ServiceSettings):
    """What an operator may set beside the shared settings."""

    langgraph_config: Path = Path("langgraph.json")
    """The project's ``langgraph.json``: its ``perdure.fetchers`` are served. None are when there is no such file."""
    validator_connections: dict[str, SecretStr | Connection] = Field(default_factory=dict)
    """JSON: names that premises use, and what they mean: ``{"crm": "mongodb://host/crm", "shop": {"url": "https://host:9200",
    "ca_file": "/run/shop/ca.pem", "api_key": "..."}}``. Fields of an object: ``url``, ``ca_file``; of MongoDB ``cert_key_file``; of
    OpenSearch ``cert_file``, ``key_file`` and ``api_key``. An OpenSearch without ``ca_file`` is verified with
    ``PERDURE_OPENSEARCH_CA_FILE``."""
    validator_source_hosts: tuple[str, ...] | None = None
    """JSON: the only hosts that HTTP premises may read, ``["api.example.com", "*.internal", "10.0.0.1:8080"]``, private ones too
    and by plain ``http``. Without it they may read every public host by ``https``."""
    validator_allowed_targets: tuple[str, ...] = ()
    """JSON: hosts (``quotes.internal``, ``*.internal``) and networks (``10.1.0.0/16``) that HTTP premises may reach although they
    are private, and by plain ``http``."""
    validator_allowed_collections: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """JSON: the collections and indices that premises may read, by connection: ``{"crm": ["orders"], "shop": ["stock-*"]}``.
    Without an entry: of MongoDB all of the connection's database, but nothing of Perdure's own; of OpenSearch what is named without
    a wildcard, but no hidden index and none of Perdure's own."""
    validator_scripted: tuple[str, ...] = ()
    """JSON: connections whose premises may use MongoDB's ``$expr`` and ``$function``, and OpenSearch's scripts and lookups in other
    indices."""
    validator_reads_per_source: int = Field(default=8, ge=1)
    """Reads of one host, connection or fetcher at once; further reads wait."""
    validator_max_reads: int = Field(default=64, ge=1)
    """Reads of all sources at once."""
    validator_max_open: int = Field(default=1000, ge=1)
    """Validations at once; beyond it, requests wait in Kafka."""
    validator_deadline_s: float = Field(default=120.0, gt=0)
    """A premise that has not been read after so long (seconds, retries and waiting included) is unknown."""
    validator_patience_s: float = Field(default=1.0, ge=0)
    """How long to hold back the Kafka commit for a slow validation, in seconds; the scheduler requests again what is lost later."""
    validator_response_limit: int = Field(default=1024 * 1024, ge=1024)
    """Bytes of an answer; a source that gives more is unknown."""
