"""HTTP shapes of API keys."""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from perdure.schemas.bodies import Body


class KeyCreate(Body):
    """Make a key of the caller's tenant."""

    name: str = Field(
        min_length=1,
        max_length=100,
        pattern=r"^[^\x00-\x1f]+$",
        description="What the key is for; changes are recorded as `key:<name>`.",
    )
    scopes: list[str] = Field(
        min_length=1, max_length=100, description="Scopes and sets of scopes; none that the caller lacks."
    )
    expires_at: AwareDatetime | None = Field(default=None, description="From then on it is refused; null: never.")


class ApiKey(BaseModel):
    """A key without its secret."""

    model_config = ConfigDict(frozen=True)

    key_id: str
    tenant: str
    name: str
    scopes: list[str]
    state: str = Field(description="`valid`, or why it is refused.")
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    last_used: datetime | None = Field(description="Up to ten minutes behind.")
    revoked_at: datetime | None
    revoked_by: str | None


class ApiKeyWithSecret(ApiKey):
    """A key that was just made."""

    key: str = Field(description="What clients send; shown this once.")


class ApiKeys(BaseModel):
    """The keys of a tenant, oldest first."""

    items: list[ApiKey]
