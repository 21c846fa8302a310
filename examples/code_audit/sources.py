"""The Python files of a part of a source tree, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

TOP = "."
"""As a part: the modules that lie directly in the root, without its sub-packages."""

SKIP = ("site-packages", "dist-packages", "__pycache__", "test")
"""Folders that are left out by default. ``test`` is CPython's own test suite: broken on purpose in many places."""


def list_files(root: Path, parts: Iterable[str] = (), skip: Iterable[str] = SKIP) -> list[str]:
    """All ``*.py`` below the parts of ``root``, relative with forward slashes, sorted, each once.

    :param parts: folders below ``root``; ``"."`` for the modules directly in it; none at all for the whole tree.
    :raises ValueError: the root or a part is no folder, or a part is outside the root.
    """
    root = root.resolve()
    if not root.is_dir():
        raise ValueError(f"root {str(root)!r} is not a folder")
    skipped, chosen = frozenset(skip), list(parts)
    found: set[str] = set()
    for part in chosen:
        folder = (root / part).resolve()
        if not folder.is_relative_to(root) or not folder.is_dir():
            raise ValueError(f"package {part!r} is not a folder below {root}")
        found.update(_below(root, folder, skipped, deep=folder != root))
    if not chosen:
        found.update(_below(root, root, skipped, deep=True))
    return sorted(found)


def _below(root: Path, folder: Path, skip: frozenset[str], *, deep: bool) -> Iterator[str]:
    for path in folder.glob("**/*.py" if deep else "*.py"):
        relative = path.relative_to(root)
        if path.is_file() and skip.isdisjoint(relative.parts[:-1]):
            yield relative.as_posix()
