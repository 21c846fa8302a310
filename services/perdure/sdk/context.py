"""What the SDK works with inside a node: the run's scope and the store, put there by agent-step."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.config import get_config

from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability
from perdure.checkpoint.scope import SCOPE_KEY, RunScope
from perdure.registry.waits import Waits
from perdure.sdk.errors import OutsidePerdure


@dataclass(frozen=True, slots=True)
class SdkContext:
    """One for each worker. Its adapters belong to ``loop``."""

    db: Database
    availability: Availability
    waits: Waits
    loop: asyncio.AbstractEventLoop
    mail_domain: str | None = None
    """The domain of reply addresses; ``None`` where the installation offers none."""
    receipts: SerializerProtocol = field(default_factory=JsonPlusSerializer)
    """Reads and writes the receipts of effects."""


def current(what: str) -> tuple[RunScope, SdkContext]:
    """The scope of the run whose node is executing, and the worker's context.

    Args:
        what: The function that asks, for the error.

    Raises:
        OutsidePerdure: no node is executing, or not under agent-step.

    """
    try:
        scope = get_config()["configurable"].get(SCOPE_KEY)
    except RuntimeError as error:
        raise OutsidePerdure(what) from error
    if not isinstance(scope, RunScope) or not isinstance(scope.sdk, SdkContext):
        raise OutsidePerdure(what)
    return scope, scope.sdk
