"""The table of findings in docs/security.md: every finding is there, and every test that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FINDINGS = (
    [f"C{n}" for n in range(1, 3)]
    + ["H1", *(f"H2{letter}" for letter in "abcdefgh"), *(f"H{n}" for n in range(3, 10))]
    + [f"M{n}" for n in range(1, 16)]
    + [f"L{n}" for n in range(1, 19)]
)
TABLE = (ROOT / "docs" / "security.md").read_text().partition("## What the review found")[2]
ROWS = [line.split(" | ") for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| finding")]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`([^`]+)`", row[2])})


def test_every_finding_is_there_once() -> None:
    assert [row[0].removeprefix("| ").split()[0] for row in ROWS] == FINDINGS


@pytest.mark.parametrize("name", NAMED)
def test_the_tests_that_it_names_are_there(name: str) -> None:
    file, _, function = name.partition("::")
    code = (ROOT / "tests" / file).read_text()
    assert re.search(rf"^(async )?def {function or 'test_'}", code, re.MULTILINE)
