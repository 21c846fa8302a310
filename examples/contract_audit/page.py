"""The report on a batch of audits, one page of Markdown: how complete it is, what was found, the riskiest texts, quotes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from results import Proof, Result, clauses_of, in_one_line
from topics import GOVERNING_LAW, TOPICS

RISKIEST, NAMED, SILENT, FAILED, PLACES, QUOTE = 10, 3, 10, 5, 8, 320
"""How many rows, names in a row, texts, places and characters of a quote the page has at most."""


def completeness(results: Sequence[Result], total: int | None) -> str:
    """How many of the orders have ended, in one sentence."""
    ended = len(results)
    if total is None:
        return f"{ended:,} orders have ended; how many there are is not known (--items)."
    if ended >= total:
        return f"Complete: all {total:,} orders have ended."
    return f"Not complete: {ended:,} of {total:,} orders have ended ({100 * ended / total:.1f} %)."


def render(
    results: Sequence[Result], audits: Sequence[Result], texts: Sequence[Result], proof: Proof, total: int | None
) -> str:
    """The page.

    Args:
        results: Everything that has ended.
        audits: Those that succeeded.
        texts: One of them for each text.
        proof: Of ``audits``.
        total: How many orders there are, if it is known.

    """
    failed = [result for result in results if result["status"] != "succeeded"]
    characters = sum(len(text["values"]["text"]) for text in texts)
    said = f"{len(audits):,} audits of {len(texts):,} distinct texts, {characters:,} characters; {len(failed)} failed."
    parts = [
        "# Contract audit",
        "",
        f"**{completeness(results, total)}** {said}",
        "",
        _proved(proof),
        *_topics(texts),
        *_riskiest(texts),
        *_silent(texts),
        *_law(texts, audits),
        *_quotes(texts),
        *_failed(failed),
    ]
    return "\n".join(parts) + "\n"


def _proved(proof: Proof) -> str:
    text = f"{proof.equal:,} quotes were compared with the texts again and stand where they say"
    text += f"; {len(proof.wrong)} do not: {proof.wrong[0]}" if proof.wrong else "; none does not"
    return text + (f". {len(proof.gone)} files are gone or were changed since." if proof.gone else ".")


def _topics(texts: Sequence[Result]) -> list[str]:
    parts = [
        "",
        "## Topics",
        "",
        "| topic | texts with a clause | without | clauses | kinds |",
        "|---|---|---|---|---|",
    ]
    for topic in TOPICS:
        found = [[c for c in clauses_of(text, mentions=False) if c["topic"] == topic] for text in texts]
        having = sum(map(bool, found))
        kinds = Counter(clause["kind"] for clauses in found for clause in clauses)
        named = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        parts.append(f"| {topic} | {having} | {len(texts) - having} | {kinds.total()} | {named} |")
    return parts


def _riskiest(texts: Sequence[Result]) -> list[str]:
    risks = Counter(_assessment(text)["risk"] for text in texts)
    groups: dict[tuple[int, str], list[str]] = {}
    for text in texts:
        assessment = _assessment(text)
        groups.setdefault((assessment["score"], "; ".join(assessment["reasons"])), []).append(_title(text))
    ranked = sorted(groups.items(), key=lambda group: -group[0][0])
    heading = (
        f"High {risks['high']}, medium {risks['medium']}, low {risks['low']}. Texts for the same reasons are one row."
    )
    parts = ["", "## Riskiest texts", "", heading, "", "| score | texts | why |", "|---|---|---|"]
    for (score, why), names in ranked[:RISKIEST]:
        parts.append(f"| {score} | {_cell(_named(names, NAMED))} | {why} |")
    return parts


def _silent(texts: Sequence[Result]) -> list[str]:
    silent = [_title(text) for text in texts if not clauses_of(text, mentions=False)]
    return ["", "## Texts without a clause", "", f"{len(silent)}: {_named(silent, SILENT)}." if silent else "None."]


def _law(texts: Sequence[Result], audits: Sequence[Result]) -> list[str]:
    places = Counter(place for text in texts for place in _assessment(text)["places"])
    named = ", ".join(f"{place} {count}" for place, count in places.most_common(PLACES)) or "no place is named"
    asked = Counter(_assessment(one)["answer"] for one in audits if _assessment(one)["jurisdiction"])
    parts = ["", "## Whose law", "", f"Texts by place: {named}."]
    if asked:
        answers = f"{asked['matches']} match, {asked['differs']} differ, {asked['silent']} are silent"
        parts.append(f"Of {asked.total()} orders that asked for a jurisdiction, {answers}.")
    return parts


def _quotes(texts: Sequence[Result]) -> list[str]:
    """For each topic the clause of high confidence that is first in the riskiest text that has one."""
    parts = ["", "## Quotes"]
    ranked = sorted(texts, key=lambda text: (-_assessment(text)["score"], text["number"]))
    for topic in TOPICS:
        found = (
            (text, clause)
            for text in ranked
            for clause in clauses_of(text)
            if clause["topic"] == topic
            and clause["confidence"] == "high"
            and (topic != GOVERNING_LAW.name or clause["place"])
        )
        text, clause = next(found, (None, None))
        if text is None or clause is None:
            continue
        quote = in_one_line(clause["quote"])
        where = f"lines {clause['line']} to {clause['end_line']}, characters {clause['start']} to {clause['end']}"
        shown = quote if len(quote) <= QUOTE else f"{quote[:QUOTE].rsplit(' ', 1)[0]} ..."
        parts += ["", f"**{topic}**, {clause['kind']}: `{_title(text)}`, {where}:", "", f"> {shown}"]
    return parts


def _failed(failed: Sequence[Result]) -> list[str]:
    if not failed:
        return []
    parts = ["", "## Failed", ""]
    for result in failed[:FAILED]:
        error = (result.get("error") or {}).get("message", result["status"])
        parts.append(f"- item {result['number']} (`{result.get('ref') or ''}`): {error}")
    return parts + ([f"- and {len(failed) - FAILED} more"] if len(failed) > FAILED else [])


def _assessment(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = result["values"]["assessment"]
    return found


def _title(result: Result) -> str:
    return str(result["values"]["title"])


def _named(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name}`" for name in names[:most]) + more


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
