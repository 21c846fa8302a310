"""Settings of agent-step."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from perdure.chassis.settings import ServiceSettings


class AgentStepSettings(ServiceSettings):
    """What an operator may set beside the shared settings."""

    langgraph_config: Path = Path("langgraph.json")
    """The project's ``langgraph.json``: which graphs this worker serves."""
    max_open_runs: int = Field(default=200, ge=1, le=10_000)
    """Runs executed at once by this process; beyond it, commands wait in Kafka."""
    lease_ttl_s: float = Field(default=10.0, ge=1.0)
    """A worker that does not renew its lease for so long (seconds) is taken for dead and its runs go to others."""
    recursion_limit: int = Field(default=10_000, ge=1)
    """Supersteps that one run may take when its request names no limit."""
