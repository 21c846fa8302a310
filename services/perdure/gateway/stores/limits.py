"""The limits of tenants, read from a TOML or JSON file (``PERDURE_QUOTAS_FILE``).

Contract: pure but for :func:`load`. What stands at the top of the file holds for every tenant; a table ``tenants.<name>`` changes
some of it for one. 0 is no limit.

::

    open_runs = 50_000

    [tenants.acme]
    open_runs = 500_000
    starts_per_s = 2_000
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.setting_files import read_setting_file
from perdure.schemas.thread_ids import TENANT_PATTERN

Count = Annotated[int, Field(ge=0)]


class Limits(BaseModel):
    """What one tenant may have and do. 0: no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    starts_per_s: float = Field(default=1_000.0, ge=0)
    """Runs that are started a second at one gateway; ten seconds' worth may come at once."""
    open_runs: Count = 200_000
    """Runs that are pending or running, those of batches and schedules included."""
    pending_runs_of_thread: Count = 1_000
    """Runs of one thread that wait for their turn."""
    threads: Count = 0
    """Threads that are not archived."""
    batch_items: Count = 5_000_000
    """Items of batches that have not ended."""
    uploads_at_once: Count = 8
    """Batches that are being uploaded at one gateway."""
    subscriptions: Count = 10_000
    """Subscriptions to notices."""
    test_notices_per_minute: Count = 20
    """Test notices at one gateway."""
    free_signals_of_thread: Count = 10_000
    """Signals of one thread that no wait has taken."""
    schedules: Count = 10_000
    """Schedules and crons."""
    schedule_interval_s: float = Field(default=0.0, ge=0)
    """The least time between two fire times of a schedule that is made or changed, in seconds."""
    watchers: Count = 2_000
    """Requests at one gateway that wait for the end of a run or read a stream."""
    stored_bytes: Count = 0
    """Bytes of the checkpoint store; not for the tenant ``default``."""


class TenantLimits:
    """The limits of every tenant."""

    def __init__(self, everybody: Limits | None = None, tenants: Mapping[str, Limits] | None = None) -> None:
        self._everybody = everybody or Limits()
        self._tenants = dict(tenants or {})

    def of(self, tenant: str) -> Limits:
        """What holds for a tenant."""
        return self._tenants.get(tenant, self._everybody)


def load(file: Path | None) -> TenantLimits:
    """The limits that a file names; without a file the defaults of :class:`Limits` for every tenant.

    Raises:
        ConfigurationError: the file cannot be read, or says something else.

    """
    if file is None:
        return TenantLimits()
    found = read_setting_file("PERDURE_QUOTAS_FILE", file)
    own = found.pop("tenants", {}) if isinstance(found, dict) else None
    if not isinstance(own, dict) or not all(isinstance(one, dict) for one in own.values()):
        raise ConfigurationError(
            f"PERDURE_QUOTAS_FILE {file}: must be a table of limits, tenants a table of such tables"
        )
    everybody = _limits(file, "", found)
    if unknown := [name for name in own if not re.fullmatch(TENANT_PATTERN.removesuffix("$"), name)]:
        raise ConfigurationError(f"PERDURE_QUOTAS_FILE {file}: {unknown[0]!r} is no name of a tenant")
    tenants = {name: _limits(file, f"tenants.{name}.", {**found, **different}) for name, different in own.items()}
    return TenantLimits(everybody, tenants)


def _limits(file: Path, where: str, given: Mapping[str, Any]) -> Limits:
    try:
        return Limits.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(f"{where}{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ConfigurationError(f"PERDURE_QUOTAS_FILE {file}: {wrong}") from error
