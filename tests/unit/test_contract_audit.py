"""examples/contract_audit: what it finds in licences that everybody knows, where, and that no quote is ever made up."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example as fixed_example
from hypothesis import given as given_example
from hypothesis import settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "contract_audit"
MODULES = [file.stem for file in EXAMPLE.glob("*.py")]

Audit = Callable[[str], dict[str, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def example() -> Iterator[SimpleNamespace]:
    """The example's modules by name, imported as agent-step does: with their folder on the path."""
    sys.path.insert(0, str(EXAMPLE))
    kept = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in MODULES})
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(kept)


@pytest.fixture(scope="module")
def audit(example: SimpleNamespace) -> Audit:
    """All clauses of a text by topic, each checked."""

    def run(text: str) -> dict[str, list[dict[str, Any]]]:
        found = {
            topic: example.clauses.find(topic, text, example.sections.split(text)) for topic in example.topics.TOPICS
        }
        for clauses in found.values():
            for clause in clauses:
                example.clauses.check(text, clause)
        return found

    return run


def of_package(name: str, file: str = "LICENSE") -> str:
    """The licence of an installed distribution."""
    return next(path for path in distribution(name).files or () if path.name.startswith(file)).read_text()


def of_system(name: str) -> str:
    path = Path("/usr/share/common-licenses") / name
    if not path.is_file():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{path} is not on this machine")
    return path.read_text()


def kinds(clauses: list[dict[str, Any]]) -> set[str]:
    return {clause["kind"] for clause in clauses if clause["confidence"] != "low"}


def one(clauses: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (clause,) = [clause for clause in clauses if clause["kind"] == kind]
    return clause


def test_apache_grants_patents_takes_them_back_and_excludes_liability(audit: Audit) -> None:
    text = (ROOT / "LICENSE").read_text()
    found = audit(text)
    grant, retaliation = one(found["patents"], "grant"), one(found["patents"], "retaliation")
    assert grant["start"] == text.index("Subject to", text.index("3. Grant of Patent License"))
    assert grant["quote"].endswith("was submitted.")
    assert retaliation["start"] == text.index("If You", grant["end"])
    assert retaliation["end"] == text.index("4. Redistribution") - len("\n\n   ")
    assert grant["section"] == retaliation["section"] == "3. Grant of Patent License"
    assert one(found["termination"], "patent suit")["start"] == retaliation["start"]
    exclusion = one(found["liability"], "exclusion")
    assert exclusion["start"] == text.index("In no event and under no legal theory")
    assert (exclusion["line"], exclusion["confidence"]) == (text[: exclusion["start"]].count("\n") + 1, "high")
    assert kinds(found["liability"]) == {"exclusion", "indemnity", "other"}
    assert kinds(found["governing law"]) == set()


def test_mit_disclaims_and_says_nothing_of_patents_or_law(audit: Audit) -> None:
    text = of_package("pytest")
    found = audit(text)
    assert {topic: kinds(clauses) for topic, clauses in found.items()} == {
        "liability": {"exclusion"},
        "warranty": {"disclaimer"},
        "patents": set(),
        "termination": set(),
        "governing law": set(),
    }
    assert found["warranty"][0]["start"] == text.index("THE SOFTWARE IS PROVIDED")
    assert found["warranty"][0]["end"] == found["liability"][0]["start"] - 1 == text.index("IN NO EVENT") - 1


def test_gpl_3_ends_with_a_breach_and_comes_back(audit: Audit) -> None:
    text = of_system("GPL-3")
    found = audit(text)["termination"]
    assert kinds(found) == {"breach", "reinstatement", "survival"}
    assert {clause["section"] for clause in found if clause["confidence"] == "high"} == {"8. Termination"}
    assert one(found, "breach")["start"] == text.index("Any attempt otherwise to propagate")


def test_mpl_2_names_a_court_and_a_box_is_read(audit: Audit) -> None:
    text = of_package("orjson", "LICENSE-MPL")
    found = audit(text)
    forum = one(found["governing law"], "forum")
    assert (forum["section"], forum["place"]) == ("8. Litigation", "")
    assert (forum["start"], forum["end"]) == (
        text.index("Any litigation relating"),
        text.index("Nothing in this Section shall") - 1,
    )
    disclaimer = one(found["warranty"], "disclaimer")
    assert disclaimer["section"] == "6. Disclaimer of Warranty"
    assert disclaimer["quote"].startswith('Covered Software is provided under this License on an "as is"')
    assert "*\n*" in disclaimer["quote"], "the frame belongs to the text, and so to the quote"
    assert {"grant", "reservation", "retaliation"} <= kinds(found["patents"])
    assert {"breach", "reinstatement", "patent suit", "survival"} == kinds(found["termination"])


def test_other_texts_of_this_machine(audit: Audit) -> None:
    mpl = audit(of_system("MPL-1.1"))
    assert [clause["place"] for clause in mpl["governing law"]] == ["California", "", ""]
    assert "grant" in kinds(mpl["patents"])
    assert one(audit(of_system("CC0-1.0"))["patents"], "reservation")["section"] == "4. Limitations and Disclaimers"
    python = audit(of_package("typing_extensions"))
    assert [clause["place"] for clause in python["governing law"] if clause["kind"] == "law"] == [
        "California",
        "United States",
    ]


@pytest.mark.parametrize(
    ("topic", "text", "expected"),
    [
        ("liability", "Liability under this agreement shall not exceed 100 EUR.", {"cap"}),
        ("liability", "The Vendor shall not be liable for loss of data.", {"exclusion"}),
        ("liability", "The list holds the damaged files.", set()),
        ("warranty", "The Seller represents and warrants that the goods are new.", {"promise"}),
        ("warranty", "# THIS IS\n# PROVIDED\n# AS IS.", {"disclaimer"}),
        ("warranty", "Read it as is the custom here.", set()),
        ("patents", "No rights under any patent are granted. Patents expire.", {"reservation"}),
        ("termination", "Either party may terminate this agreement at any time.", {"at will"}),
        ("termination", "Strings are null-terminated, and your rights in them end.", set()),
        ("governing law", "This Agreement is governed by the laws of the State of New York.", {"law"}),
        ("governing law", "To the extent permitted by applicable law.", set()),
    ],
)
def test_single_sentences(audit: Audit, topic: str, text: str, expected: set[str]) -> None:
    assert kinds(audit(text)[topic]) == expected


def test_words_count_under_their_heading_only(audit: Audit) -> None:
    sentence = "Support and a warranty cost extra.\n"
    (mention,) = audit(f"1. Prices\n\n{sentence}")["warranty"]
    (clause,) = audit(f"1. Warranty\n\n{sentence}")["warranty"]
    assert (mention["kind"], mention["confidence"]) == ("mention", "low")
    assert (clause["kind"], clause["confidence"]) == ("other", "medium")
    assert clause["reason"] == 'says "warranty", under "1. Warranty"'


LEGAL = (
    "IN NO EVENT",
    "be liable for",
    '"AS IS"',
    "“as is”",
    "patent",
    "license",
    "terminate",
    "governed by the laws of",
)
SHAPES = (
    "1. Termination.",
    "\n\n",
    "\r\n",
    " * ",
    "# ",
    "----\n",
    "Inc.",
    ".",
    ". ",
    "; (b) ",
    "\f",
    "\u2028",
    "é",
    "\ufeff",
    "a" * 400,
)
WORDS = st.sampled_from(LEGAL + SHAPES)
TEXTS = st.one_of(
    st.text(max_size=300), st.lists(WORDS, max_size=60).map(" ".join), st.lists(WORDS, max_size=60).map("".join)
)


@settings(max_examples=300, deadline=None)
@given_example(text=TEXTS)
@fixed_example(text="liable\r *")
def test_every_position_verifies_in_any_text(example: SimpleNamespace, audit: Audit, text: str) -> None:
    sections = example.sections.split(text)
    assert "".join(text[one["start"] : one["end"]] for one in sections) == text
    assert all(one["start"] <= one["body"] <= one["end"] for one in sections)
    for clauses in audit(text).values():
        ranges = [(clause["start"], clause["end"]) for clause in clauses]
        assert ranges == sorted(ranges)
        assert all(first[1] <= second[0] for first, second in pairwise(ranges)), "sentences overlap"
        assert all(clause["quote"].strip() == clause["quote"] for clause in clauses)


@given_example(shift=st.integers(1, 40))
def test_a_quote_that_is_elsewhere_is_refused(example: SimpleNamespace, shift: int) -> None:
    text = "Preface.\n\nThe goods come without any warranty.\n" + "x" * 50
    (clause,) = example.clauses.find("warranty", text, example.sections.split(text))
    moved = {**clause, "start": clause["start"] + shift, "end": clause["end"] + shift}
    for wrong in (moved, {**clause, "quote": ""}, {**clause, "quote": clause["quote"].upper()}, {**clause, "line": 2}):
        with pytest.raises(ValueError, match="the quote on warranty"):
            example.clauses.check(text, wrong)


def test_a_very_long_sentence_is_quoted_around_what_was_found(audit: Audit) -> None:
    text = "word " * 2_000 + "without any warranty " + "word " * 2_000
    (clause,) = audit(text)["warranty"]
    assert "without any warranty" in clause["quote"]
    assert len(clause["quote"]) <= 1_200


def test_the_agent_reads_a_file_or_a_given_text(example: SimpleNamespace, tmp_path: Path) -> None:
    graph = example.agent.graph
    file = tmp_path / "licence"
    file.write_bytes('Gew\xe4hr: provided "AS IS".\r\nGoverned by the laws of Germany.'.encode("latin-1"))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    read = graph.invoke({"path": str(file), "sha256": sha256, "jurisdiction": "Germany"})
    assert (read["sha256"], read["quotes_checked"], read["assessment"]["answer"]) == (sha256, 2, "matches")
    text = file.read_bytes().decode("latin-1")
    given = graph.invoke({"text": text, "title": "mine", "jurisdiction": "France"})
    assert given["clauses"] == read["clauses"]
    assert (given["title"], given["path"], given["assessment"]["answer"]) == ("mine", "", "differs")
    assert given["assessment"]["missing"] == ["liability", "patents", "termination"]


@pytest.mark.parametrize(
    ("order", "problem"),
    [
        ({}, 'needs either "path"'),
        ({"path": "FILE", "text": "x"}, 'needs either "path"'),
        ({"path": "FILE"}, 'and its "sha256"'),
        ({"path": "FILE", "sha256": "0" * 64}, "is not the text that was ordered"),
        ({"path": "BINARY", "sha256": hashlib.sha256(b"x\0").hexdigest()}, "is no text"),
    ],
)
def test_wrong_orders_are_refused(
    example: SimpleNamespace, tmp_path: Path, order: dict[str, str], problem: str
) -> None:
    (tmp_path / "FILE").write_text("x")
    (tmp_path / "BINARY").write_bytes(b"x\0")
    if "path" in order:
        order = {**order, "path": str(tmp_path / order["path"])}
    with pytest.raises(ValueError, match=problem):
        example.agent.graph.invoke(order)


def test_scores_can_be_followed(example: SimpleNamespace, audit: Audit) -> None:
    apache = example.assessment.assess(audit((ROOT / "LICENSE").read_text()))
    assert apache["score"] == sum(int(reason.partition(":")[0]) for reason in apache["reasons"]) == 60
    assert (apache["risk"], apache["missing"]) == ("medium", ["governing law"])
    nothing = example.assessment.assess({})
    assert (nothing["risk"], nothing["score"]) == ("low", 15)


@pytest.fixture
def collected(example: SimpleNamespace, tmp_path: Path) -> tuple[Path, Path]:
    """A folder with two distinct texts in three files, and four orders of them."""
    folder, items = tmp_path / "texts", tmp_path / "items.ndjson"
    folder.mkdir()
    (folder / "LICENSE").write_text('Provided "AS IS".\n')
    (folder / "COPYING").write_text("Governed by the laws of Delaware, as is usual.\n")
    (folder / "LICENSE.txt").write_text('Provided "AS IS".\n')
    (folder / "license.py").write_text("no text")
    (folder / "NOTICE").write_bytes(b"\0")
    assert example.collect.main([str(folder), "--only", "--count", "4", "-o", str(items)]) == 0
    return folder, items


def test_orders_are_of_distinct_texts_and_repeat_with_another_question(
    example: SimpleNamespace, collected: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, items = collected
    capsys.readouterr()
    assert example.collect.main([str(folder), "--only", "--count", "4", "-o", str(items)]) == 0
    assert "4 orders of 2 distinct texts." in capsys.readouterr().err
    orders = [json.loads(line) for line in items.read_text().splitlines()]
    assert [order["ref"] for order in orders] == [
        "COPYING",
        "LICENSE",
        "COPYING for California",
        "LICENSE for California",
    ]
    assert [order["input"].get("jurisdiction") for order in orders] == [None, None, "California", "California"]
    with pytest.raises(SystemExit):
        example.collect.main([str(folder), "--only", "--count", "17", "-o", str(items)])
    assert "must be from 1 to 16 (2 distinct texts, 8 questions each)" in capsys.readouterr().err


def test_the_overview_says_how_complete_it_is_and_proves_the_quotes(
    example: SimpleNamespace, collected: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, items = collected
    rows = []
    for number, line in enumerate(items.read_text().splitlines()[:3], 1):
        values = example.agent.graph.invoke(json.loads(line)["input"])
        rows.append({"number": number, "status": "succeeded", "thread_id": f"t{number}", "values": values})
    failed = {
        "number": 4,
        "status": "failed",
        "thread_id": "t4",
        "ref": "lost",
        "error": {"message": "gone"},
        "values": None,
    }
    results, table, report = tmp_path / "results.ndjson", tmp_path / "clauses.csv", tmp_path / "report.md"

    def overview(*found: dict[str, Any]) -> int:
        results.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
        return int(
            example.overview.main([str(results), "--items", str(items), "--csv", str(table), "--report", str(report)])
        )

    assert overview(*rows) == 0
    assert "Not complete: 3 of 4 orders have ended (75.0 %)." in capsys.readouterr().out
    page = report.read_text()
    assert "3 quotes were compared with the texts again and stand where they say; none does not." in page
    assert "3 audits of 2 distinct texts" in page
    assert "| warranty | 1 | 1 | 1 | disclaimer 1 |" in page
    assert "Of 1 orders that asked for a jurisdiction, 0 match, 1 differ, 0 are silent." in page
    assert len(table.read_text().splitlines()) == 1 + 3

    (folder / "COPYING").write_text("changed")
    assert overview(*rows, failed) == 0
    page = report.read_text()
    assert "Complete: all 4 orders have ended." in page
    assert "2 files are gone or were changed since." in page
    assert "- item 4 (`lost`): gone" in page

    rows[1]["values"]["clauses"]["warranty"][0]["start"] += 1
    assert overview(*rows) == 1
    assert "the quote on warranty" in capsys.readouterr().err
    results.write_text('{"number": 1, "sta')
    assert example.overview.main([str(results), "--csv", str(table), "--report", str(report)]) == 2
    assert "line 1 is not JSON" in capsys.readouterr().err
    results.write_text('{"number": 1, "status": "succeeded", "values": null}')
    assert example.overview.main([str(results), "--csv", str(table), "--report", str(report)]) == 2
    assert "line 1 holds no audit" in capsys.readouterr().err
