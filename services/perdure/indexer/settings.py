"""Settings of the indexer."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from perdure.chassis.settings import ServiceSettings


class IndexerSettings(ServiceSettings):
    """What the indexer needs beyond what every service has."""

    redaction_file: Path | None = None
    """Redaction rules as JSON or TOML; see docs/search.md."""
    redaction_key: SecretStr | None = None
    """Secret for rules with the action ``hash``."""
    index_batch: int = Field(default=500, ge=1, le=10_000)
    """Events written at once at most."""
    index_batch_bytes: int = Field(default=8_388_608, ge=65_536)
    """Size of one bulk request at most, in bytes."""
    index_linger_s: float = Field(default=0.15, ge=0, le=5)
    """Time between two writes at least while events keep coming, in seconds; the first after a pause goes at once."""
    index_threads_s: float = Field(default=1.0, ge=0, le=10)
    """The same for the threads' newest states: a thread that takes ten steps a second is written once, not ten times."""
    index_buffer: int = Field(default=2048, ge=1)
    """Events held in memory at most, about."""
    index_text_limit: int = Field(default=8192, ge=0)
    """Characters of state text indexed per state at most."""
    index_shards: int = Field(default=1, ge=1, le=64)
    """Primary shards of a new states index: one for each data node that shall share the writing (docs/retention.md)."""
    index_rollover_size: str = Field(default="20gb", pattern=r"^\d+(kb|mb|gb|tb)$")
    """A new states index begins when the primary shards of the present one are this large together."""
    index_rollover_docs: int = Field(default=20_000_000, ge=1)
    """... or has this many documents."""
    index_rollover_check_s: float = Field(default=10.0, gt=0)
    """How often that is looked at, and the aliases read again, in seconds."""
    index_skew_s: float = Field(default=300.0, ge=0)
    """How far the clocks of workers and OpenSearch may differ, in seconds (ADR 4)."""
