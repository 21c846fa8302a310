"""Moments as every store and message of Perdure holds them: aware, in UTC, in whole milliseconds. Pure.

BSON dates have milliseconds and drop the rest, Python's datetimes have microseconds. A moment that is published or shown before the
database gives it back must be cut in the same way, or the two differ. Reading the clock: ``perdure.chassis.clock``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime


def in_milliseconds(moment: datetime) -> datetime:
    """The moment in UTC, without its microseconds, as the database gives it back; a naive one is taken as UTC."""
    if moment.tzinfo is not UTC:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    beyond = moment.microsecond % 1000
    return moment.replace(microsecond=moment.microsecond - beyond) if beyond else moment


Moment = Annotated[datetime, AfterValidator(in_milliseconds)]
"""A field of what is stored: what is assigned is cut to what the database gives back. Not for messages: they are never altered."""

AwareMoment = Annotated[AwareDatetime, AfterValidator(in_milliseconds)]
"""As :data:`Moment`; a naive datetime is refused."""
