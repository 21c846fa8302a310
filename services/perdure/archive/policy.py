"""Retention policy: how long ended threads are kept, and archived ones before they may be purged. A TOML or JSON file.

Contract: :meth:`RetentionPolicy.of` is pure. The first rule that fits a thread decides; what it does not say, and a thread that no
rule fits, has the policy's own ages. Times are in days, fractions allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.setting_files import read_setting_file

MAX_DAYS: Final = 100_000
Days = Annotated[float, Field(strict=True, ge=0, le=MAX_DAYS)]
Keep = Literal["forever"] | Days
Purge = Literal["never"] | Days
WORDS: Final = {"keep_days": "forever", "purge_days": "never"}


class _Ages(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RetentionRule(_Ages):
    """Which threads, and their ages. Everything that is given must fit."""

    tenant: str | None = None
    assistant: str | None = None
    """A graph id or an assistant id."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Values by name; a name with full stops goes into objects: ``case.kind``."""
    keep_days: Keep | None = None
    purge_days: Purge | None = None


class RetentionPolicy(_Ages):
    """What a file says."""

    keep_days: Keep = 30.0
    """From a thread's end until it is archived."""
    purge_days: Purge = "never"
    """From then until ``perdure archive purge`` may remove it."""
    rules: tuple[RetentionRule, ...] = ()

    def of(self, thread: Mapping[str, Any]) -> Retention:
        """What holds for a thread, by its document."""
        for number, rule in enumerate(self.rules, 1):
            if _fits(rule, thread):
                keep = self.keep_days if rule.keep_days is None else rule.keep_days
                purge = self.purge_days if rule.purge_days is None else rule.purge_days
                return Retention(_span(keep), _span(purge), f"rule {number}")
        return Retention(_span(self.keep_days), _span(self.purge_days), "default")

    @property
    def shortest_keep(self) -> timedelta | None:
        """No thread is archived younger; ``None``: none is archived at all."""
        found = [span for keep in self._keeps() if (span := _span(keep)) is not None]
        return min(found, default=None)

    def _keeps(self) -> list[Keep]:
        return [self.keep_days, *(rule.keep_days for rule in self.rules if rule.keep_days is not None)]


@dataclass(frozen=True, slots=True)
class Retention:
    """What holds for one thread.

    Attributes:
        keep: From its end until it is archived; ``None``: for ever.
        purge: From then until it may be purged; ``None``: never.
        rule: Which rule says so.

    """

    keep: timedelta | None
    purge: timedelta | None
    rule: str

    def archive_due(self, thread: Mapping[str, Any]) -> datetime | None:
        """When a thread is to be archived, counted from its end or from when it came back."""
        return None if self.keep is None else ended_at(thread) + self.keep

    def purge_due(self, thread: Mapping[str, Any]) -> datetime | None:
        """When an archived thread may be purged."""
        return None if self.purge is None else thread["archive"]["at"] + self.purge


def ended_at(thread: Mapping[str, Any]) -> datetime:
    """The end of a thread: of its last run, or its return from the archive."""
    last: datetime = thread["updated_at"]
    restored: datetime | None = thread.get("restored_at")
    return last if restored is None else max(last, restored)


def load(file: Path | None) -> RetentionPolicy:
    """The policy of a file; 30 days for every thread without one.

    Raises:
        ConfigurationError: the file cannot be read, or says something else.

    """
    if file is None:
        return RetentionPolicy()
    found = read_setting_file("PERDURE_RETENTION_FILE", file)
    try:
        policy = RetentionPolicy.model_validate(found)
    except ValidationError as error:
        raise ConfigurationError(f"PERDURE_RETENTION_FILE {file}: {_said(error)}") from error
    return policy


def _said(error: ValidationError) -> str:
    """What is wrong in a file, and where; one problem once."""
    problems: dict[str, None] = {}
    for one in error.errors():
        place = list(one["loc"])
        where = f"rule {place[1] + 1}" if len(place) > 1 and isinstance(place[1], int) else "file"
        names = [str(name) for name in (place[2:] if where != "file" else place)]
        if names and names[0] in WORDS:
            problems[f'{where}: {names[0]} must be 0 to {MAX_DAYS} days, or "{WORDS[names[0]]}"'] = None
        elif one["type"] == "extra_forbidden":
            problems[f"{where}: there is no setting {'.'.join(names)}"] = None
        elif one["type"] == "model_type":
            problems[f"{where} must be a table of settings"] = None
        else:
            problems[f"{where}: {'.'.join(names)}: {one['msg']}"] = None
    return "; ".join(problems)


def _span(age: Keep | Purge) -> timedelta | None:
    return timedelta(days=age) if isinstance(age, float) else None


def _fits(rule: RetentionRule, thread: Mapping[str, Any]) -> bool:
    if rule.tenant is not None and rule.tenant != thread["tenant"]:
        return False
    if rule.assistant is not None and rule.assistant not in (thread.get("graph_id"), thread.get("assistant_id")):
        return False
    metadata = thread.get("metadata") or {}
    return all(_at(metadata, name) == wanted for name, wanted in rule.metadata.items())


def _at(metadata: Any, name: str) -> Any:
    if isinstance(metadata, Mapping) and name in metadata:
        return metadata[name]
    for part in name.split("."):
        if not isinstance(metadata, Mapping):
            return None
        metadata = metadata.get(part)
    return metadata
