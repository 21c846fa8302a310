"""The base of every wire type: a frozen model with a type name, a version and a partition key."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """A command or an event.

    ``TYPE`` is the CloudEvents ``type``; ``VERSION`` the version of the payload's schema. Both travel as headers and have no
    default on the wire: a record without them is undecodable. Unknown fields are ignored, so a newer writer may add
    optional fields without a new version.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_timedelta="float")

    TYPE: ClassVar[str]
    VERSION: ClassVar[int]

    tenant: str
    thread_id: str

    @property
    def partition_key(self) -> bytes:
        """The thread id: one thread is one partition, and its order holds."""
        return self.thread_id.encode()
