"""The clauses of a text on a topic, with their quotes, and the proof that a quote is really there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, TypedDict

from sections import Section
from sentences import Flat, paragraphs, sentences
from texts import line_of
from topics import GOVERNING_LAW, TOPICS, Topic

QUOTE_CHARACTERS = 1200
"""The longest quote: of a longer sentence the part around what was found."""

REASON_CHARACTERS = 90

Confidence = Literal["high", "medium", "low"]

_REALM = r"(?:(?:State|state|Commonwealth|Province|Republic|Kingdom) of (?:the )?)?"
_NAME = r"[A-Z]\w+(?:(?: and| of)? [A-Z]\w+){0,3}"
_PLACE = re.compile(rf"\blaws? (?:of|in) (?:the )?{_REALM}(?P<of>{_NAME})|\b(?P<in>[A-Z][a-z]+(?: [A-Z][a-z]+)?) law\b")


class Clause(TypedDict):
    """One sentence that is about a topic."""

    topic: str
    kind: str
    confidence: Confidence
    reason: str
    """Which words, under which heading."""
    section: str
    quote: str
    """``text[start:end]``."""
    start: int
    end: int
    line: int
    end_line: int
    """Of its last character."""
    place: str
    """Whose law, where a clause on governing law says so; else empty."""


def find(topic_name: str, text: str, sections: Sequence[Section]) -> list[Clause]:
    """The clauses on one of ``TOPICS``, in their order; a sentence is one at most.

    Raises:
        KeyError: there is no such topic.

    """
    topic = TOPICS[topic_name]
    found: list[Clause] = []
    for section in sections:
        announced = topic.heading.search(section["heading"]) is not None
        for paragraph in paragraphs(text, section["body"], section["end"]):
            for start, end in sentences(paragraph):
                found += _judge(topic, text, section, paragraph, (start, end), announced=announced)
    return found


def check(text: str, clause: Clause) -> None:
    """Make sure that a clause's quote stands in the text where the clause says.

    Raises:
        ValueError: it does not.

    """
    start, end = clause["start"], clause["end"]
    where = f"the quote on {clause['topic']} at {start} to {end}"
    if not clause["quote"] or text[start:end] != clause["quote"]:
        raise ValueError(f"{where} is not what the text has there")
    if (clause["line"], clause["end_line"]) != (line_of(text, start), line_of(text, end - 1)):
        raise ValueError(f"{where} is not in lines {clause['line']} to {clause['end_line']}")


def _judge(
    topic: Topic, text: str, section: Section, paragraph: Flat, where: tuple[int, int], *, announced: bool
) -> Iterator[Clause]:
    sentence = paragraph.text[slice(*where)]
    if topic.unless and topic.unless.search(sentence):
        return
    kind, match = _formula(topic, sentence)
    confidence: Confidence = "high"
    if match is None:
        match = topic.words.search(sentence)
        kind, confidence = ("other", "medium") if announced else ("mention", "low")
    if match is None:
        return
    start, end = paragraph.range(*_window(paragraph.text, where, (where[0] + match.start(), where[0] + match.end())))
    heading = f', under "{section["heading"]}"' if announced else ""
    yield Clause(
        topic=topic.name,
        kind=kind,
        confidence=confidence,
        reason=f'says "{_shortened(match[0])}"{heading}',
        section=section["heading"],
        quote=text[start:end],
        start=start,
        end=end,
        line=line_of(text, start),
        end_line=line_of(text, end - 1),
        place=_place(sentence) if topic is GOVERNING_LAW else "",
    )


def _formula(topic: Topic, sentence: str) -> tuple[str, re.Match[str] | None]:
    for rule in topic.rules:
        match = rule.pattern.search(sentence)
        if match and not (rule.unless and rule.unless.search(sentence)):
            return rule.kind, match
    return "", None


def _window(text: str, sentence: tuple[int, int], match: tuple[int, int]) -> tuple[int, int]:
    """The sentence, or, of a very long one, whole words around what was found."""
    start, end = sentence
    if end - start <= QUOTE_CHARACTERS:
        return start, end
    left = max(start, match[0] - QUOTE_CHARACTERS // 4)
    right = min(end, left + QUOTE_CHARACTERS)
    if left > start:
        left = text.find(" ", left, match[0] + 1) + 1 or match[0]
    if right < end:
        right = max(text.rfind(" ", left + 1, right), left + 1)
    return left, right


def _place(sentence: str) -> str:
    match = _PLACE.search(sentence.title() if sentence.isupper() else sentence)
    return (match["of"] or match["in"]) if match else ""


def _shortened(words: str) -> str:
    if len(words) <= REASON_CHARACTERS:
        return words
    return (
        f"{words[: REASON_CHARACTERS // 2].rsplit(' ', 1)[0]} ... {words[-REASON_CHARACTERS // 2 :].split(' ', 1)[-1]}"
    )
