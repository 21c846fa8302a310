"""What the clauses of a text come to for somebody who wants to use what it covers: points with their reasons, to be argued with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypedDict

from clauses import Clause
from topics import GOVERNING_LAW, TOPICS

Risk = Literal["low", "medium", "high"]
Answer = Literal["matches", "differs", "silent"]
HIGH, MEDIUM = 70, 45


class Weight(NamedTuple):
    """What a kind of clause adds, once, however many clauses are of it."""

    points: int
    reason: str


WEIGHTS: dict[tuple[str, str], Weight] = {
    ("liability", "exclusion"): Weight(15, "nobody is liable for damages"),
    ("liability", "cap"): Weight(5, "liability is limited"),
    ("liability", "indemnity"): Weight(20, "the user answers for claims against others"),
    ("warranty", "disclaimer"): Weight(10, "nothing is warranted"),
    ("patents", "reservation"): Weight(15, "patent rights are kept back"),
    ("patents", "retaliation"): Weight(10, "who sues over patents loses rights"),
    ("termination", "breach"): Weight(10, "a breach ends the rights"),
    ("termination", "at will"): Weight(20, "it can be ended without a reason"),
    ("termination", "end"): Weight(5, "the rights can end"),
    ("termination", "reinstatement"): Weight(-5, "rights that ended can come back"),
    ("governing law", "forum"): Weight(10, "disputes go to a court that is named"),
}
SILENT: dict[str, Weight] = {
    "patents": Weight(10, "says nothing on patents"),
    "governing law": Weight(5, "names no governing law"),
}
"""What a topic adds about which the text has no clause."""


class Assessment(TypedDict):
    """Of one text."""

    risk: Risk
    score: int
    """0 to 100; from 45 medium, from 70 high."""
    reasons: list[str]
    counts: dict[str, int]
    """Clauses by topic, without mere mentions; every topic has a number."""
    missing: list[str]
    """Topics without a clause."""
    places: list[str]
    """Whose law governs, as the text says it."""
    jurisdiction: str
    """The one that was asked about; empty if none was."""
    answer: Answer
    """Whether the text chooses that law; ``silent`` if it names no place, or none was asked about."""


def assess(clauses: Mapping[str, Sequence[Clause]], jurisdiction: str = "") -> Assessment:
    """Weigh the clauses of one text, given by topic. Mentions (low confidence) weigh nothing."""
    real = {name: [c for c in clauses.get(name, ()) if c["confidence"] != "low"] for name in TOPICS}
    kinds = {(name, clause["kind"]) for name, found in real.items() for clause in found}
    missing = [name for name, found in real.items() if not found]
    weights = [weight for key, weight in WEIGHTS.items() if key in kinds]
    weights += [SILENT[name] for name in missing if name in SILENT]
    score = max(0, min(100, sum(weight.points for weight in weights)))
    places = [*Counter(clause["place"] for clause in real[GOVERNING_LAW.name] if clause["place"])]
    return Assessment(
        risk="high" if score >= HIGH else "medium" if score >= MEDIUM else "low",
        score=score,
        reasons=[f"{weight.points:+d}: {weight.reason}" for weight in weights],
        counts={name: len(found) for name, found in real.items()},
        missing=missing,
        places=places,
        jurisdiction=jurisdiction,
        answer=_answer(places, jurisdiction),
    )


def _answer(places: Sequence[str], jurisdiction: str) -> Answer:
    if not places or not jurisdiction:
        return "silent"
    return "matches" if any(jurisdiction.casefold() in place.casefold() for place in places) else "differs"
