"""Final validation: premises, rules and verdicts, and the two messages between agent-step and the validator.

Contract: a premise names a source, what the agent believed and the rule that must still hold. A verdict says, for each premise, the
fresh value and the drift, and is bound to the digest of one exact action: single use, short expiry. A source that cannot be read is
*unknown*, and unknown never passes.

Outside: reading sources (``perdure.validator``) and using a verdict up (the effect ledger in ``perdure.sdk``).
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from perdure.schemas.message import Message

PREMISES_LIMIT: Final = 100
"""Premises of one validation."""
EXPIRY_LIMIT_S: Final = 86_400.0
"""The longest that a verdict may be used, in seconds."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Part(BaseModel):
    """Base of the parts: frozen, no NaN and no infinity, and nothing misspelled is accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HttpSource(Part):
    """A JSON document over HTTP (GET, answered 2xx; a redirect is not followed)."""

    kind: Literal["http"] = "http"
    url: str = Field(pattern=r"^https?://")
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent as they are, except that ``${PERDURE_SOURCE_X}`` is the validator's environment variable of that name: no secret is
    stored, and none but those meant for sources can be sent."""


class MongoSource(Part):
    """The first document of a MongoDB query, read from the primary; ``null`` when none fits."""

    kind: Literal["mongodb"] = "mongodb"
    connection: str
    """Name of a connection in the validator's settings."""
    collection: str
    filter: dict[str, Any]
    """As MongoDB writes it; what JSON cannot say as Extended JSON: ``{"$date": ...}``, ``{"$oid": ...}``."""
    sort: dict[str, int] = Field(default_factory=dict)


class OpenSearchSource(Part):
    """The answer of an OpenSearch query: ``hits``, ``aggregations``, as OpenSearch gives it."""

    kind: Literal["opensearch"] = "opensearch"
    connection: str
    index: str
    body: dict[str, Any]


class FetcherSource(Part):
    """What a registered Python function returns: ``perdure.fetchers`` in the project's ``langgraph.json``."""

    kind: Literal["fetcher"] = "fetcher"
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


Source = Annotated[HttpSource | MongoSource | OpenSearchSource | FetcherSource, Field(discriminator="kind")]


class Equal(Part):
    """The fresh value equals the believed one as JSON: 1 equals 1.0, and neither equals ``true``."""

    rule: Literal["equal"] = "equal"


class Absolute(Part):
    """``abs(fresh - believed) <= tolerance``, computed exactly on the numbers as JSON writes them."""

    rule: Literal["absolute"] = "absolute"
    tolerance: float = Field(ge=0)


class Relative(Part):
    """``abs(fresh - believed) <= tolerance * abs(believed)``, computed exactly; 0.05 is five per cent."""

    rule: Literal["relative"] = "relative"
    tolerance: float = Field(ge=0)


class Range(Part):
    """``low <= fresh <= high``; a bound that is absent does not bind. What was believed does not matter."""

    rule: Literal["range"] = "range"
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError("a range without low and high holds always: name at least one")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"a range from {self.low:g} to {self.high:g} holds never")
        return self


class NewerThan(Part):
    """The fresh value, an ISO 8601 time with zone (or Unix seconds), is at most ``max_age_s`` seconds old and not before ``than``.

    A bound that is absent does not bind. A time more than a minute ahead of the validator's clock is not new but wrong.
    """

    rule: Literal["newer_than"] = "newer_than"
    max_age_s: float | None = Field(default=None, gt=0)
    than: AwareDatetime | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.max_age_s is None and self.than is None:
            raise ValueError("newer than what? Name max_age_s or than")
        return self


class UnchangedHash(Part):
    """``digest(fresh)`` equals the believed value, a digest that :func:`perdure.schemas.waits.digest` made."""

    rule: Literal["unchanged_hash"] = "unchanged_hash"


Rule = Annotated[Equal | Absolute | Relative | Range | NewerThan | UnchangedHash, Field(discriminator="rule")]


class Premise(Part):
    """Something that must still be true."""

    name: str = Field(min_length=1, max_length=128)
    source: Source
    pointer: str = Field(default="", pattern=r"^(/([^/~]|~[01])*)*$")
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

    @field_validator("believed")
    @classmethod
    def _json(cls, believed: Any) -> Any:
        try:
            json.dumps(believed, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"what is believed must be JSON without NaN and infinity: {error}") from error
        return believed

    @model_validator(mode="after")
    def _checkable(self) -> Self:
        number = isinstance(self.believed, int | float) and not isinstance(self.believed, bool)
        if isinstance(self.rule, Absolute | Relative) and not number:
            raise ValueError(f"{self.name}: a tolerance needs a believed number, not {self.believed!r:.100}")
        digest = isinstance(self.believed, str) and _DIGEST.fullmatch(self.believed)
        if isinstance(self.rule, UnchangedHash) and not digest:
            raise ValueError(f"{self.name}: unchanged_hash needs the believed digest (64 hex digits)")
        return self


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
    """What was read; a value over 4 KiB of JSON is replaced by ``{"omitted": <bytes>, "digest": <its digest>}``."""
    drift: float | None = None
    """``fresh - believed`` where both are numbers."""
    reason: str
    """One sentence for people: what was expected, what was found, or why it could not be read."""
    read_at: AwareDatetime
    """When the read began: the value is not older. Of an unknown one: when the last attempt began."""
    attempts: int = 1
    outcome: VerdictOutcome


class Verdict(BaseModel):
    """Whether the premises held at ``read_at``, for one exact action."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    outcome: VerdictOutcome
    findings: tuple[Finding, ...]
    action_digest: str
    read_at: AwareDatetime
    """When the oldest of the fresh values was read."""
    expires_at: AwareDatetime


class ValidatePremises(Message):
    """Re-read the premises of a wait. Repeatable: every answer is true when it is given, the first one wakes the thread."""

    TYPE: ClassVar[str] = "perdure.validation.requested"
    VERSION: ClassVar[int] = 1

    wait_id: str
    run_id: str
    premises: tuple[Premise, ...] = Field(min_length=1, max_length=PREMISES_LIMIT)
    action_digest: str
    verdict_expires_s: float = Field(gt=0, le=EXPIRY_LIMIT_S)
    due_at: AwareDatetime | None = None
    """When the wait ends without a verdict: nobody reads one that comes later."""


class PremisesValidated(Message):
    """The verdict on the premises of a wait."""

    TYPE: ClassVar[str] = "perdure.validation.done"
    VERSION: ClassVar[int] = 1

    wait_id: str
    run_id: str
    verdict: Verdict


VALIDATIONS: dict[tuple[str, int], type[Message]] = {(ValidatePremises.TYPE, 1): ValidatePremises}
VERDICTS: dict[tuple[str, int], type[Message]] = {(PremisesValidated.TYPE, 1): PremisesValidated}
