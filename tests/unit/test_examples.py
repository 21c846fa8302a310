"""The pure parts of the examples: what a curriculum vitae scores, what a week of checks comes to."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(path: str) -> ModuleType:
    """A module of an example under a name of its own: the examples share names."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


screening = load("recruiter/screening.py")
summary = load("monitor/summary.py")
checks = load("monitor/checks.py")

JOB = {"required": ["Python", "C"], "welcome": ["Rust"], "years": 4}


@pytest.mark.parametrize(
    ("text", "score", "years"),
    [
        ("Python, C and Rust for 4 years", 100.0, 4),
        ("python and C++ for 2 years", 30.0 + 10.0, 2),
        ("C#, Cobol", 0.0, 0),
        ("C, Python. 2010 - 2013 here, 2015 to 2018 there", 60.0 + 20.0, 6),
        ("C for 99 years, it seems", 30.0 + 20.0, 50),
    ],
)
def test_a_cv_is_scored_by_whole_words_and_years(text: str, score: float, years: int) -> None:
    found = screening.screen(text, JOB)
    assert (found["score"], found["years"]) == (score, years)


def test_a_job_that_asks_for_nothing_suits_everybody() -> None:
    assert screening.screen("", {})["score"] == 100.0


def test_a_week_is_summarised() -> None:
    strip = "." * 10 + "xx" + "." * 30 + "xxxxx" + "." * 121
    found = summary.summarise(strip)
    assert found == {
        "checks": 168,
        "failed": 7,
        "availability_percent": 95.83,
        "outages": 2,
        "longest_outage_hours": 5,
        "longest_outage_from": 43,
    }
    report = summary.render("disk:/", strip, {"less than 5 % free": 7})
    assert "from hour 43." in report
    assert report.count("| `") == 7
    assert "| less than 5 % free | 7 |" in report


@pytest.mark.parametrize(("strip", "availability", "longest"), [("", 0.0, 0), (".", 100.0, 0), ("xx", 0.0, 2)])
def test_short_weeks(strip: str, availability: float, longest: int) -> None:
    found = summary.summarise(strip)
    assert (found["availability_percent"], found["longest_outage_hours"]) == (availability, longest)
    assert summary.render("x", strip, {})


async def test_files_and_disks_are_looked_at(tmp_path: Path) -> None:
    file: Any = tmp_path / "beat"
    assert "cannot be read" in await checks.look(f"file:{file}")
    file.write_text("")
    assert await checks.look(f"file:{file}?60") is None
    assert "was not written" in await checks.look(f"file:{file}?0")
    assert await checks.look(f"disk:{tmp_path}?0") is None
    assert "free" in await checks.look(f"disk:{tmp_path}?100")
    assert "no answer" in await checks.look("http://127.0.0.1:9/")
    with pytest.raises(ValueError, match="none of"):
        await checks.look("gopher://x")
