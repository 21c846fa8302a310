"""Settings of the scheduler."""

from __future__ import annotations

from pydantic import Field

from perdure.chassis.settings import ServiceSettings


class SchedulerSettings(ServiceSettings):
    """What an operator may set beside the shared settings. All in seconds."""

    sweep_interval_s: float = Field(default=1.0, gt=0)
    """Between two sweeps of the leader."""
    timer_interval_s: float = Field(default=0.1, gt=0, le=1)
    """Between two looks at the waits and schedules that are due."""
    leader_ttl_s: float = Field(default=10.0, ge=1)
    """A leader that does not renew for so long is followed by another instance."""
    lease_ttl_s: float = Field(default=10.0, ge=1)
    """The workers' lease; after an outage of the database the leader waits so long before it declares a worker dead."""
    publish_grace_s: float = Field(default=30.0, ge=0)
    """A registered run whose command may be unpublished is published again after so long."""
    settle_grace_s: float = Field(default=15.0, ge=0)
    """An ended run that nobody settled has its events published again after so long."""
