"""What is looked for: rules for each topic, to be read and argued with.

A rule is a pattern over one flat sentence. A *formula* is wording that is used for nothing else: a clause that has one is found
with high confidence. Words that only belong to the topic count where the heading says the topic too (medium), else they are a
mention (low). The first rule of a topic that fits a sentence names the clause's kind, so the order matters.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """A formula."""

    kind: str
    pattern: re.Pattern[str]
    unless: re.Pattern[str] | None = None
    """A sentence with this is not meant."""


class Topic(NamedTuple):
    """A topic and its rules."""

    name: str
    heading: re.Pattern[str]
    """Headings that announce it."""
    rules: tuple[Rule, ...]
    words: re.Pattern[str]
    unless: re.Pattern[str] | None = None
    """Sentences in which the words mean something else."""


def _re(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _rule(kind: str, pattern: str, unless: str | None = None) -> Rule:
    return Rule(kind, _re(pattern), _re(unless) if unless else None)


_NEVER = r"(?:in no (?:event|case|way)|under no (?:circumstances?|legal theory))"
_TERMINATED = r"(?:terminat(?:e|es|ed|ion)|revoked?|revokes|revocation|forfeit(?:s|ed)?)"
_RIGHTS = r"(?:rights?|licen[sc]es?|agreement|permissions?|grants?)"
_SUIT = r"(?:litigation|disputes?|actions?|proceedings?|suits?|claims?)"
_NO_GRANT = r'\bnothing\b.{0,60}\bconstrued\b|"grant"|\bmay not\b'
_PATENT_SUIT = r"(?:patent (?:litigation|infringement|claims?)|infring\w*\b.{0,80}\bpatents?)"

LIABILITY = Topic(
    "liability",
    _re(r"\bliabilit|\bdamages\b|\bindemni|\bremed"),
    (
        _rule("indemnity", r"\b(?:indemnify|indemnifies)\b|\bhold\b.{0,120}\bharmless\b"),
        _rule("cap", r"\bliabilit(?:y|ies)\b.{0,200}\b(?:not exceed|(?:is|be|are) limited to|in the aggregate)\b"),
        _rule("exclusion", rf"\b{_NEVER}\b.{{0,500}}?\b(?:liable|liability|responsible)\b"),
        _rule(
            "exclusion",
            r"\b(?:not|never|neither)(?: \w+){0,2} (?:liable|responsible) (?:for|to)\b",
            r"\b(?:being considered|for enforcing)\b",
        ),
        _rule(
            "exclusion",
            r"\b(?:neither|nor|no|none of)\b.{0,160}\b(?:shall|will|can) (?:be|have)\b.{0,40}\bliab(?:le|ility)\b",
        ),
        _rule("exclusion", r"\b(?:no|without(?: any)?)(?: \w+){0,2} liabilit(?:y|ies)\b"),
        _rule("exclusion", r"\b(?:disclaims?|excludes?|waives?)\b(?: \w+){0,5}? liabilit(?:y|ies)\b"),
        _rule("exclusion", r"\b(?:accepts?|assumes?|takes?) no (?:responsibility|liability)\b"),
    ),
    _re(r"\bliab(?:le|ility|ilities)\b|\bdamages\b|\bindemnit"),
)

WARRANTY = Topic(
    "warranty",
    _re(r"\bwarrant|\bguarantee|\bdisclaimer\b"),
    (
        _rule(
            "disclaimer",
            r"[\"']+as[ -]is\b|\bas[ -]is[\"']+|\b(?:provided|distributed|licensed|supplied|released)(?: \w+){0,8} as[ -]is\b",
        ),
        _rule("disclaimer", r"\bwithout (?!limitation)(?:\w+,? ){0,7}?(?:warrant(?:y|ies)|guarantees?)\b"),
        _rule("disclaimer", r"\bno (?:\w+,? ){0,6}?(?:warrant(?:y|ies)|guarantees?)\b", r"\bno (?:charge|fee)\b"),
        _rule(
            "disclaimer",
            r"\bdisclaim(?:s|ed|ing)?\b.{0,120}\bwarrant|\bwarrant(?:y|ies)\b.{0,400}\b(?:disclaimed|excluded)\b",
        ),
        _rule("disclaimer", r"\b(?:not|never|neither|nor)\b.{0,60}\b(?:warrants?|guarantees?)\b(?! disclaimer)"),
        _rule("promise", r"\b(?:represents?|warrants?)\b(?: and \w+)?(?:,? to \w+,?)? that\b"),
    ),
    _re(r"\bwarrant(?:y|ies|s|ed)?\b"),
)

PATENTS = Topic(
    "patents",
    _re(r"\bpatent"),
    (
        _rule(
            "retaliation",
            rf"\b{_PATENT_SUIT}\b.{{0,600}}\b{_TERMINATED}\b|\b{_TERMINATED}\b.{{0,400}}\b{_PATENT_SUIT}\b",
        ),
        _rule("retaliation", rf"\bmay not\b.{{0,200}}\blitigation\b.{{0,200}}\b{_PATENT_SUIT}\b"),
        _rule(
            "reservation",
            r"\bno\b.{0,80}\blicen[sc]es?\b.{0,80}\bpatent|\bno (?:\w+ ){0,3}patents?\b.{0,60}\b(?:licen|rights?|granted|waived)",
        ),
        _rule("reservation", r"\bpatents?\b.{0,80}\bnot (?:\w+ )?(?:granted|waived|covered)\b"),
        _rule("grant", r"\bgrants?\b.{0,300}\bpatent\b.{0,60}\b(?:licen[sc]e|rights?|claims?)\b", _NO_GRANT),
        _rule("grant", r"\blicen[sc]es?\b.{0,250}\bunder\b.{0,80}\bpatents?\b", _NO_GRANT),
        _rule("grant", r"\bunder (?:\w+ )?patents? claims\b"),
        _rule("grant", r"\bpatent licen[sc]e\b.{0,60}\bto make\b", _NO_GRANT),
    ),
    _re(r"\bpatents?\b"),
)

TERMINATION = Topic(
    "termination",
    _re(r"\bterminat|\brevocation\b"),
    (
        _rule("survival", r"\bsurviv(?:e|es|al)\b.{0,120}\bterminat|\bterminat.{0,120}\bsurviv"),
        _rule(
            "survival",
            rf"\bnot (?:have (?:their|its) )?(?:\w+ )?(?:be )?{_TERMINATED}\b|\bnot terminate\b|\bnot\b.{{0,30}}\bterminated\b",
        ),
        _rule("reinstatement", r"\breinstate[ds]?\b"),
        _rule(
            "patent suit",
            rf"\b{_PATENT_SUIT}\b.{{0,600}}\b{_TERMINATED}\b|\b{_TERMINATED}\b.{{0,400}}\b{_PATENT_SUIT}\b",
        ),
        _rule(
            "breach",
            rf"\b{_RIGHTS}\b.{{0,200}}\b{_TERMINATED}\b.{{0,200}}\b(?:fail|breach|violat|not comply|non-?compl)"
            rf"|\b(?:fail|breach|violat|not comply|non-?compl|attempt)\w*\b.{{0,300}}\b{_TERMINATED}\b",
        ),
        _rule("at will", r"\b(?:may|right to) terminate\b.{0,100}\b(?:any time|any reason|convenience|notice)\b"),
        _rule(
            "end", rf"\b{_RIGHTS}\b.{{0,120}}\b(?:will|shall|may|automatically|are|is|be)\b.{{0,40}}\b{_TERMINATED}\b"
        ),
        _rule("end", rf"\b(?:terminate|revoke)s?\b(?: \w+){{0,4}} {_RIGHTS}\b|\b(?:up)?on (?:the )?termination of\b"),
    ),
    _re(r"\bterminat(?:e|es|ed|ion)\b|\brevo(?:ke|ked|kes|cation)\b"),
    _re(r"\b(?:null|nul|zero|newline|line)[ -]terminated\b"),
)

GOVERNING_LAW = Topic(
    "governing law",
    _re(r"\bgoverning law|\bjurisdiction|\blitigation\b|\bapplicable law|\bdisputes?\b|\bvenue\b"),
    (
        _rule(
            "forum",
            rf"\b{_SUIT}\b.{{0,250}}\b(?:brought|resolved|subject|submit\w*)\b.{{0,120}}\b(?:courts?|arbitration)\b",
        ),
        _rule("forum", r"\b(?:exclusive|personal|sole) (?:jurisdiction|venue)\b|\bvenue (?:lying|shall|will|is)\b"),
        _rule("forum", r"\bjurisdiction of the\b.{0,80}\bcourts?\b"),
        _rule("law", r"\bgoverned by\b.{0,120}\blaws?\b"),
        _rule("law", r"\b(?:construed|interpreted)\b.{0,80}\b(?:with|under|by)\b.{0,60}\blaws? (?:of|in)\b"),
        _rule("law", r"\binternational sale of goods\b"),
    ),
    _re(r"\bconflicts?[ -]of[ -]laws?\b|\bchoice[ -]of[ -]law\b|\blaws of (?:the )?(?:state|commonwealth|republic)\b"),
)

TOPICS = {topic.name: topic for topic in (LIABILITY, WARRANTY, PATENTS, TERMINATION, GOVERNING_LAW)}
