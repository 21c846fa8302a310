"""From what was read to findings and a verdict. Pure.

Contract: a premise holds only when a value was read, is plain JSON, has what the pointer names and fits the rule. Whatever else
happens is broken (the world is another one) or unknown (we could not see it); neither proceeds.

Outside: reading (:mod:`perdure.validator.reading`) and the rules themselves (:mod:`perdure.validator.rules`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from jsonpointer import EndOfList, JsonPointer, JsonPointerException

from perdure.schemas.moments import in_milliseconds
from perdure.schemas.validation import Finding, Premise, Verdict, VerdictOutcome
from perdure.schemas.waits import digest
from perdure.validator.rules import drift, judge

FRESH_LIMIT: Final = 4096
"""Bytes of JSON of a value in a finding."""
DEPTH_LIMIT: Final = 100
"""Levels of lists and objects of a value that is read."""
ORDER: Final = (VerdictOutcome.STALE, VerdictOutcome.UNKNOWN, VerdictOutcome.ASK)


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading a source: a value, or a problem."""

    read_at: datetime
    """When the attempt that counts began."""
    attempts: int
    value: Any = None
    problem: str | None = None
    """Why there is no value; one sentence."""


class NotFoundError(Exception):
    """The pointer names nothing in the document."""


def find(premise: Premise, reading: Reading) -> Finding:
    """What became of one premise."""
    if reading.problem is not None:
        return _unknown(premise, reading, reading.problem)
    try:
        fresh = pointed(reading.value, premise.pointer)
    except NotFoundError as error:
        return _unknown(premise, reading, str(error))
    if (problem := _unusable(fresh)) is not None:
        return _unknown(premise, reading, problem)
    judgement = judge(premise, fresh, reading.read_at)
    return Finding(
        name=premise.name,
        holds=judgement.holds,
        believed=bounded(premise.believed),
        fresh=bounded(fresh),
        drift=drift(premise.believed, fresh),
        reason=judgement.reason,
        read_at=reading.read_at,
        attempts=reading.attempts,
        outcome=VerdictOutcome.PROCEED if judgement.holds else _broken(premise),
    )


def conclude(findings: Sequence[Finding], action_digest: str, expires_s: float) -> Verdict:
    """The verdict on all findings: the first of stale, unknown, ask that applies to one of them, else proceed.

    Raises:
        ValueError: there is no finding, so nothing was checked.

    """
    if not findings:
        raise ValueError(f"a verdict on the action {action_digest[:12]} needs at least one finding")
    outcomes = {finding.outcome for finding in findings}
    oldest = min(finding.read_at for finding in findings)
    return Verdict(
        outcome=next((outcome for outcome in ORDER if outcome in outcomes), VerdictOutcome.PROCEED),
        findings=tuple(findings),
        action_digest=action_digest,
        read_at=oldest,
        expires_at=in_milliseconds(oldest + timedelta(seconds=expires_s)),
    )


def pointed(document: Any, pointer: str) -> Any:
    """What a JSON Pointer (RFC 6901) names in a document.

    Raises:
        NotFoundError: it names nothing there.

    """
    found = document
    path = JsonPointer(pointer)
    for part in path.parts:
        # The library would also index into text; RFC 6901 knows objects and arrays.
        if not isinstance(found, dict | list):
            raise NotFoundError(f"the source's answer has nothing at {pointer}")
        try:
            found = path.walk(found, part)
        except (JsonPointerException, ValueError) as error:
            raise NotFoundError(f"the source's answer has nothing at {pointer}") from error
        if isinstance(found, EndOfList):
            raise NotFoundError(f"{pointer} names the place after the end of a list")
    return found


def bounded(value: Any) -> Any:
    """A value fit for a verdict: itself, or its size and digest."""
    size = len(json.dumps(value))  # not orjson, which refuses integers over 64 bits
    return value if size <= FRESH_LIMIT else {"omitted": size, "digest": digest(value)}


def _unusable(value: Any) -> str | None:
    """Why a value cannot be compared with anything; never fails, whatever a source returns."""
    level = [value]
    for _ in range(DEPTH_LIMIT):
        if any(isinstance(one, float) and not math.isfinite(one) for one in level):
            return "the value holds NaN or an infinity, which equal nothing"
        level = [child for one in level for child in _children(one)]
        if not level:
            return None
    return f"the value is nested deeper than {DEPTH_LIMIT} levels"


def _children(value: Any) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()


def _unknown(premise: Premise, reading: Reading, reason: str) -> Finding:
    return Finding(
        name=premise.name,
        holds=None,
        believed=bounded(premise.believed),
        reason=reason,
        read_at=reading.read_at,
        attempts=reading.attempts,
        outcome=VerdictOutcome.ASK if premise.on_unknown == "ask" else VerdictOutcome.UNKNOWN,
    )


def _broken(premise: Premise) -> VerdictOutcome:
    return VerdictOutcome.ASK if premise.on_violation == "ask" else VerdictOutcome.STALE
