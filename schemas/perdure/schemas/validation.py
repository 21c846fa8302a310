"""Final validation: premises, rules and verdicts, and the two messages between agent-step and the validator.

Contract: a premise names a source, what the agent believed and the rule that must still hold. A verdict says, for each premise, the
fresh value and the drift, and is bound to the digest of one exact action: single use, short expiry. A source that cannot be read is
*unknown*, and unknown never passes.

Outside: reading sources (``perdure.validator``) and using a verdict up (the effect ledger in ``perdure.sdk``).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from perdure.schemas.message import Message


class Part(BaseModel):
    """Base of the parts: frozen, and nothing misspelled is accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpSource(Part):
    """A JSON document over HTTP (GET)."""

    kind: Literal["http"] = "http"
    url: str = Field(pattern=r"^https?://")
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent as they are; ``${NAME}`` is replaced by the validator's environment variable of that name, so no secret is stored."""


class MongoSource(Part):
    """The first document of a MongoDB query."""

    kind: Literal["mongodb"] = "mongodb"
    connection: str
    """Name of a connection in the validator's settings."""
    collection: str
    filter: dict[str, Any]
    sort: dict[str, int] = Field(default_factory=dict)


class OpenSearchSource(Part):
    """The answer of an OpenSearch query: ``hits``, ``aggregations``, as OpenSearch gives it."""

    kind: Literal["opensearch"] = "opensearch"
    connection: str
    index: str
    body: dict[str, Any]


class FetcherSource(Part):
    """What a registered Python function returns."""

    kind: Literal["fetcher"] = "fetcher"
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


Source = Annotated[HttpSource | MongoSource | OpenSearchSource | FetcherSource, Field(discriminator="kind")]


class Equal(Part):
    """The fresh value equals the believed one."""

    rule: Literal["equal"] = "equal"


class Absolute(Part):
    """``abs(fresh - believed) <= tolerance``."""

    rule: Literal["absolute"] = "absolute"
    tolerance: float = Field(ge=0)


class Relative(Part):
    """``abs(fresh - believed) <= tolerance * abs(believed)``; 0.05 is five per cent."""

    rule: Literal["relative"] = "relative"
    tolerance: float = Field(ge=0)


class Range(Part):
    """``low <= fresh <= high``; a bound that is absent does not bind. What was believed does not matter."""

    rule: Literal["range"] = "range"
    low: float | None = None
    high: float | None = None


class NewerThan(Part):
    """The fresh value, an ISO 8601 time (or Unix seconds), is at most ``max_age_s`` seconds old, or not before ``than``."""

    rule: Literal["newer_than"] = "newer_than"
    max_age_s: float | None = Field(default=None, gt=0)
    than: AwareDatetime | None = None


class UnchangedHash(Part):
    """``digest(fresh)`` equals the believed value, a digest that :func:`perdure.schemas.waits.digest` made."""

    rule: Literal["unchanged_hash"] = "unchanged_hash"


Rule = Annotated[Equal | Absolute | Relative | Range | NewerThan | UnchangedHash, Field(discriminator="rule")]


class Premise(Part):
    """Something that must still be true."""

    name: str = Field(min_length=1, max_length=128)
    source: Source
    pointer: str = Field(default="", pattern=r"^(/.*)?$")
    """JSON Pointer (RFC 6901) into what the source gives; empty: all of it."""
    believed: Any = None
    rule: Rule = Equal()
    timeout_s: float = Field(default=10.0, gt=0, le=300)
    """For one attempt to read the source."""
    attempts: int = Field(default=3, ge=1, le=10)
    on_violation: Literal["refuse", "ask"] = "refuse"
    """Whether drift makes the verdict ``stale``, or asks a person."""
    on_unknown: Literal["refuse", "ask"] = "refuse"
    """Whether a source that cannot be read makes the verdict ``unknown``, or asks a person."""


class VerdictOutcome(StrEnum):
    """What the graph routes on; of several premises the first of stale, unknown, ask that applies to one of them."""

    PROCEED = "proceed"
    STALE = "stale"
    UNKNOWN = "unknown"
    ASK = "ask"


class Finding(BaseModel):
    """What became of one premise."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    holds: bool | None
    """``None``: unknown."""
    believed: Any = None
    fresh: Any = None
    drift: float | None = None
    """``fresh - believed`` where both are numbers."""
    reason: str
    """One sentence for people: what was expected, what was found, or why it could not be read."""
    read_at: datetime
    attempts: int = 1
    outcome: VerdictOutcome


class Verdict(BaseModel):
    """Whether the premises held at ``read_at``, for one exact action."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    outcome: VerdictOutcome
    findings: tuple[Finding, ...]
    action_digest: str
    read_at: datetime
    """When the oldest of the fresh values was read."""
    expires_at: datetime


class ValidatePremises(Message):
    """Re-read the premises of a wait. Repeatable: every answer is true when it is given, the first one wakes the thread."""

    TYPE: ClassVar[str] = "perdure.validation.requested"
    VERSION: ClassVar[int] = 1

    wait_id: str
    run_id: str
    premises: tuple[Premise, ...]
    action_digest: str
    verdict_expires_s: float


class PremisesValidated(Message):
    """The verdict on the premises of a wait."""

    TYPE: ClassVar[str] = "perdure.validation.done"
    VERSION: ClassVar[int] = 1

    wait_id: str
    run_id: str
    verdict: Verdict


VALIDATIONS: dict[tuple[str, int], type[Message]] = {(ValidatePremises.TYPE, 1): ValidatePremises}
VERDICTS: dict[tuple[str, int], type[Message]] = {(PremisesValidated.TYPE, 1): PremisesValidated}
