"""What the documents say about variables, commands and files exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perdure.cli.app import rows
from perdure.cli.settings import as_markdown, every

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_configuration_page_is_generated() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == as_markdown(every()), "perdure settings --markdown > docs/configuration.md"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_variable_named_exists(path: Path) -> None:
    rows = [*every()]
    known = {row["variable"] for row in rows}
    known |= {name for row in rows for name in re.findall(r"`(PERDURE_[A-Z_]+_FILE)`", row["meaning"])}
    # What comes after PERDURE_SOURCE_ is the user's choice: secrets for the sources of premises.
    named = set(re.findall(r"\bPERDURE_(?!SOURCE_)[A-Z0-9_]*[A-Z0-9]\b", path.read_text()))
    assert named <= known


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_named_exists(path: Path) -> None:
    known = {row.name for row in rows()}
    named = set(re.findall(r"(?:^|`|\s)(?:\.venv/bin/)?perdure ([a-z]+)\b", "\n".join(code_of(path))))
    assert named <= known


@pytest.mark.parametrize("path", DOCUMENTS[:2], ids=lambda path: path.name)
def test_every_target_named_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(code_of(path))))
    assert named
    assert named <= targets


def code_of(path: Path) -> list[str]:
    """Inline code, fenced blocks and indented blocks."""
    text = path.read_text()
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
    indented = re.findall(r"^ {4}(.*)$", text, re.MULTILINE)
    return [*blocks, *indented, *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)]
