"""Schedules: runs that start by the clock."""

from perdure.gateway.resources.schedules.fields import checked_metadata, packed, refused, run_payload
from perdure.gateway.resources.schedules.resource import SchedulesResource, owned, protected, require_schedulable
from perdure.gateway.resources.schedules.store import ScheduleStore

__all__ = [
    "ScheduleStore",
    "SchedulesResource",
    "checked_metadata",
    "owned",
    "packed",
    "protected",
    "refused",
    "require_schedulable",
    "run_payload",
]
