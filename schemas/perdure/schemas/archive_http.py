"""HTTP shapes of the archive: legal holds, bringing threads back, and what a thread takes up."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from perdure.schemas.documents import ArchiveState


class HoldRequest(BaseModel):
    """Put a thread under legal hold."""

    model_config = ConfigDict(extra="forbid")

    by: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Who says so. Required where the gateway asks nobody who calls; else the caller is recorded as `by`, and this "
        "as `on_behalf_of`.",
    )
    reason: str = Field(min_length=1, max_length=2_000, description="Why, e.g. the number of a case.")


class Hold(BaseModel):
    """A legal hold: the thread is neither archived nor purged."""

    model_config = ConfigDict(frozen=True)

    by: str
    on_behalf_of: str | None = None
    reason: str
    at: datetime


class RestoreRequest(BaseModel):
    """Ask for an archived thread back."""

    model_config = ConfigDict(extra="forbid")

    by: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Who asks; kept in its history. A known caller is recorded in its place, and this as `on_behalf_of`.",
    )


class Archived(BaseModel):
    """Where a thread is in the archive."""

    model_config = ConfigDict(frozen=True)

    state: ArchiveState = Field(description="`archived`, or what is being done.")
    object: str = Field(description="The key of its object in the archive store.")
    bytes: int | None = Field(description="Of the object.")
    sha256: str | None = Field(description="Of the object, hexadecimal.")
    at: datetime | None = Field(description="When the object was verified.")


class Size(BaseModel):
    """What one part takes up in the database, before its compression and without indexes."""

    model_config = ConfigDict(frozen=True)

    documents: int
    bytes: int


class ThreadStorage(BaseModel):
    """What a thread takes up. Of an archived thread: what is in its object, by collection."""

    model_config = ConfigDict(frozen=True)

    thread_id: str
    total: Size
    parts: dict[str, Size] = Field(
        description="`checkpoints`, `segments` (the pieces of large values), `writes` and `history` of the notebook, and the "
        "other collections; of an archived thread the notebook as a whole."
    )
    archive: Archived | None
    hold: Hold | None
    restored_at: datetime | None = Field(description="When it last came back from the archive.")
