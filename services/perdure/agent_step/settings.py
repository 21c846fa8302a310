"""Settings of agent-step."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from perdure.chassis.settings import ServiceSettings
from perdure.chassis.signatures import SigningSettings


class AgentStepSettings(SigningSettings, ServiceSettings):
    """What an operator may set beside the shared settings."""

    langgraph_config: Path = Path("langgraph.json")
    """The project's ``langgraph.json``: which graphs this worker serves."""
    strict_types: bool = True
    """Read checkpoints with LangGraph's strict rule: only types that a graph's schemas or ``PERDURE_ALLOWED_TYPES`` name are
    constructed. Without it, whoever can write to the database has any importable function called in the worker."""
    allowed_types: tuple[str, ...] = ()
    """More types that a checkpoint or a receipt may construct, as JSON: ``["module:Class"]``."""
    max_open_runs: int = Field(default=200, ge=1, le=10_000)
    """Runs executed at once by this process; beyond it, commands wait in Kafka."""
    lease_ttl_s: float = Field(default=10.0, ge=1.0)
    """A worker that does not renew its lease for so long (seconds) is taken for dead and its runs go to others."""
    idle_run_s: float = Field(default=30.0, gt=0)
    """A run that makes no progress for so many seconds while none of its nodes is at work is logged as an error and given back."""
    unserved_interval_s: float = Field(default=1.0, gt=0)
    """Seconds between two looks for runs of this worker's graphs whose commands went to workers that do not serve them."""
    crash_limit: int = Field(default=5, ge=1, le=100)
    """A run that crashed its workers so many times without any progress is parked: it ends with an error and can be resumed."""
    crash_backoff_s: float = Field(default=2.0, ge=0)
    """Seconds before a run is started again after its second crash; doubled with each further one."""
    expected_default_s: float = Field(default=900.0, gt=0)
    """A superstep of which nothing is known (no time-out, fewer than 20 before it) should end within so many seconds; past it, its
    thread is marked as stuck. Nothing is stopped."""
    expected_floor_s: float = Field(default=60.0, gt=0)
    """No superstep is expected to end sooner than within so many seconds, however quick its nodes were before."""
    expected_factor: float = Field(default=5.0, ge=1)
    """A superstep should end within so many times what 99 of 100 before it took."""
    recursion_limit: int = Field(default=10_000, ge=1)
    """Supersteps that one run may take when its request names no limit."""
    recursion_limit_max: int = Field(default=100_000, ge=1)
    """Supersteps that one run may take at most, whatever its request says."""
