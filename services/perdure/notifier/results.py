"""What becomes of a delivery after an attempt.

Contract: a result counts only while the claim under which it was got is there, and takes the claim off, so that writing it again
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perdure.chassis.assignments import Assignment


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a delivery.

    Attributes:
        fields: Fields that are set.
        ended: Whether it is due no more; one that is not has ``due_at`` among its fields.

    """

    fields: dict[str, Any]
    ended: bool

    def of(self, delivery: Mapping[str, Any]) -> Assignment:
        """To be written to a claimed delivery."""
        taken_off = ("claim", "due_at") if self.ended else ("claim",)
        return Assignment(delivery["_id"], self.fields, equal={"claim": delivery["claim"]}, removed=taken_off)
