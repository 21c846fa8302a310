"""Settings of the local stack: one frozen object, parsed once from the environment (``PERDURE_*``)."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/perdure``, or ``~/.cache/perdure``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure"


class LocalSettings(BaseSettings):
    """Folders, ports and sizes.

    Every field is read from the variable of the same name in upper case with the prefix ``PERDURE_``:
    ``PERDURE_LOCAL_KAFKA_PORT=0 perdure up``.
    """

    model_config = SettingsConfigDict(
        env_prefix="PERDURE_", frozen=True, extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True
    )

    cache_dir: Path = Field(default_factory=default_cache_dir)
    """Downloaded servers; shared by all projects and processes of a user."""
    data_dir: Path = Path(".perdure")
    """Data, logs and the state file of this stack."""

    kafka_bootstrap_servers: str | None = None
    """An address here replaces the local Kafka."""
    mongodb_uri: str | None = None
    """An address here replaces the local MongoDB-compatible server."""
    opensearch_url: str | None = None
    """An address here replaces the local OpenSearch."""

    local_kafka_port: int = Field(default=19092, ge=0, le=65535)
    """Kafka's; 0 takes a free port, here and below."""
    local_kafka_controller_port: int = Field(default=19093, ge=0, le=65535)
    """Kafka's own, between its two roles."""
    local_mongodb_port: int = Field(default=27217, ge=0, le=65535)
    """The MongoDB-compatible server's."""
    local_opensearch_port: int = Field(default=19200, ge=0, le=65535)
    """OpenSearch's HTTP port."""

    local_kafka_heap_mb: int = Field(default=448, ge=128)
    """Java heap, in MB, here and below."""
    local_opensearch_heap_mb: int = Field(default=768, ge=256)
    """Less than 512 is for tests."""
    local_mongodb_cache_mb: int = Field(default=512, ge=64)
    """Cache of the storage engine, in MB."""
    local_min_free_disk_mb: int = Field(default=1024, ge=0)
    """Start is refused when the data or cache folder has less."""
    local_min_free_memory_mb: int | None = Field(default=None, ge=0)
    """Start is refused when less memory is available; not set: what the servers to start need."""
    local_start_timeout_s: float = Field(default=90.0, gt=0)
    """How long one server may take to become ready, in seconds."""
    local_import_timeout_s: float = Field(default=30.0, gt=0)
    """How long importing a project's graphs may take before `perdure up` and `perdure dev` give up, in seconds."""
    local_stop_timeout_s: float = Field(default=20.0, gt=0)
    """How long one process may take to end after SIGTERM before it is killed, in seconds."""
    java_home: Path | None = None
    """A Java runtime (21 or newer) to use instead of the packaged one."""

    def with_free_ports(self) -> LocalSettings:
        """The same, but a port that was not set explicitly becomes 0 (take a free one)."""
        ports = ("local_kafka_port", "local_kafka_controller_port", "local_mongodb_port", "local_opensearch_port")
        return self.model_copy(update={name: 0 for name in ports if name not in self.model_fields_set})
