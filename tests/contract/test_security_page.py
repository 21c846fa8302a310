"""docs/security.md says of scopes and their sets what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from perdure.schemas.scopes import MEANINGS, SETS, Scope

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
ROW = re.compile(r"^\| `([a-z_:]+)` \| (.+) \|$", re.MULTILINE)
NAME = re.compile(r"`([a-z_:]+)`")


def rows_below(heading: str) -> dict[str, str]:
    """The rows of the first table whose heading row is this."""
    text = PAGE.read_text()
    table = text[text.index(heading) :].partition("\n\n")[0]
    return dict(ROW.findall(table))


def test_every_scope_is_explained() -> None:
    assert rows_below("| scope | permits to |") == {str(scope): meaning for scope, meaning in MEANINGS.items()}


def test_every_set_is_spelled_out() -> None:
    said: dict[str, frozenset[Scope]] = {}
    for name, text in rows_below("| set | scopes |").items():
        named = frozenset(map(Scope, NAME.findall(text)))
        said[name] = frozenset(Scope) - named if text.startswith("all") else named
    assert said == SETS
