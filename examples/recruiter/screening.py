"""How well a curriculum vitae fits a job: a few rules that can be read and argued with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypedDict

WEIGHTS = {"required": 60.0, "welcome": 20.0, "years": 20.0}
_YEARS = re.compile(r"(\d{1,2})\s*\+?\s*years?", re.IGNORECASE)
_SPANS = re.compile(r"\b((?:19|20)\d{2})\s*(?:-|–|to)\s*((?:19|20)\d{2})\b")
LONGEST_YEARS = 50


class Job(TypedDict, total=False):
    """What is looked for."""

    title: str
    required: list[str]
    welcome: list[str]
    years: int


class Screening(TypedDict):
    """What was found. ``score`` is from 0 to 100."""

    score: float
    matched: list[str]
    missing: list[str]
    welcome: list[str]
    years: int


def screen(text: str, job: Job) -> Screening:
    """Score a curriculum vitae: 60 for the required skills, 20 for welcome ones, 20 for the years of experience."""
    required, welcome = job.get("required", []), job.get("welcome", [])
    matched, nice = _found(text, required), _found(text, welcome)
    years = _years(text)
    wanted = job.get("years", 0)
    score = (
        WEIGHTS["required"] * _share(len(matched), len(required))
        + WEIGHTS["welcome"] * _share(len(nice), len(welcome))
        + WEIGHTS["years"] * _share(min(years, wanted), wanted)
    )
    missing = [skill for skill in required if skill not in matched]
    return {"score": round(score, 1), "matched": matched, "missing": missing, "welcome": nice, "years": years}


def _found(text: str, skills: Sequence[str]) -> list[str]:
    """The skills that the text names, as whole words; C is not found in C++."""
    return [s for s in skills if re.search(rf"(?<![\w+#]){re.escape(s)}(?![\w+#])", text, re.IGNORECASE)]


def _years(text: str) -> int:
    """Years of experience: the most that a sentence claims, or the sum of the spans, whichever is more."""
    claimed = max((int(found) for found in _YEARS.findall(text)), default=0)
    spans = sum(max(0, int(last) - int(first)) for first, last in _SPANS.findall(text))
    return min(LONGEST_YEARS, max(claimed, spans))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
