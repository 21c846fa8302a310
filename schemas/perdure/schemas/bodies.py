"""What the request bodies of several resources of the gateway are made of.

Outside: the bodies themselves (``perdure.schemas.http`` and the other modules of ``perdure.schemas`` that end in ``_http``).
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from perdure.schemas import run_config

NodeName = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Metadata = dict[str, Any]


class Body(BaseModel):
    """Base of request bodies: frozen; fields that we do not know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RunConfig(BaseModel):
    """LangGraph's run configuration; what may be set is in ``perdure.schemas.run_config``."""

    model_config = ConfigDict(frozen=True, extra="allow")

    tags: list[str] | None = None
    recursion_limit: int | None = Field(default=None, ge=1)
    configurable: dict[str, Any] | None = Field(
        default=None,
        description="Keys that begin with `__`, `langgraph_`, `checkpoint_` or `perdure_` are reserved and refused.",
    )
    run_name: str | None = Field(default=None, max_length=512)
    max_concurrency: int | None = Field(default=None, ge=1)
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _only_the_clients(self) -> Self:
        given = self.model_dump(include={"configurable"}) | (self.model_extra or {})
        if found := next(run_config.problems(given), None):
            raise ValueError(found)
        return self
