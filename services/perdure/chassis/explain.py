"""Mistakes in a user's file or code as text: where, the line itself, a caret below the place, and what to do.

Contract: pure functions from an exception to lines of text. A traceback shows the frames of the user's own code only, outermost
first: none of Perdure, of Python's standard library or of installed packages.
"""

from __future__ import annotations

import difflib
import importlib.util
import json as standard_json
import linecache
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_SHOWN_NAMES: Final = 10
_NOT_THEIRS: Final = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(__file__).parents[1]))
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


def json_mistake(file: Path, text: str, error: standard_json.JSONDecodeError) -> str:
    """Why a file is not JSON: its line and column, counted from 1, and a caret below the place."""
    lines = text.splitlines() or [""]
    line = lines[error.lineno - 1] if error.lineno <= len(lines) else ""
    return f"{file} is not JSON: {error.msg}\n" + _at(file, error.lineno, line, error.colno)


def import_mistake(error: BaseException) -> str:
    """Why code could not be imported or run: the error, the user's lines that led to it, and what to do where that is known."""
    if isinstance(error, SyntaxError) and error.filename:
        line = (error.text or linecache.getline(error.filename, error.lineno or 0)).rstrip("\n")
        return f"{type(error).__name__}: {error.msg}\n" + _at(error.filename, error.lineno or 0, line, error.offset)
    said = f": {error}" if str(error) else ""
    lines = [f"{type(error).__name__}{said}", *user_frames(traceback.extract_tb(error.__traceback__))]
    if isinstance(error, ModuleNotFoundError) and error.name:
        lines.append(_how_to_install(error.name))
    return "\n".join(lines)


def user_frames(stack: Iterable[traceback.FrameSummary]) -> list[str]:
    """Two lines a frame of the user's own code: ``file:line, in name`` and the source line."""
    return [
        line
        for frame in stack
        if not frame.filename.startswith(("<", *_NOT_THEIRS)) and _INSTALLED.isdisjoint(Path(frame.filename).parts)
        for line in (f"  {frame.filename}:{frame.lineno}, in {frame.name}", f"    {frame.line}")
    ]


def near(name: str, known: Iterable[str]) -> str:
    """What to say after "there is no NAME": the names that look like it, else those that there are; empty if there are none."""
    names = sorted(known)
    if like := difflib.get_close_matches(name, names, n=3, cutoff=0.7):
        return f" Did you mean {' or '.join(repr(one) for one in like)}?"
    more = ", ..." if len(names) > _SHOWN_NAMES else ""
    return f" There is: {', '.join(names[:_SHOWN_NAMES])}{more}." if names else ""


def _at(file: Path | str, number: int, line: str, column: int | None) -> str:
    place = f"  {file}:{number}" + (f":{column}" if column else "")
    shown = line.lstrip()
    lines = [place, f"    {shown}"]
    if column:
        lines.append("    " + " " * max(0, column - 1 - (len(line) - len(shown))) + "^")
    return "\n".join(lines)


def _how_to_install(module: str) -> str:
    top = module.partition(".")[0]
    if top != module and top in sys.modules:
        return (
            f"  The package {top} is installed in the environment of {sys.executable}, but it has no module {module}."
        )
    if importlib.util.find_spec(top) is not None and top != module:
        return f"  There is a module {top}, but none named {module}."
    return (
        f"  {top} is not installed in the environment of {sys.executable}, which runs your graphs. "
        f"Install it there: {sys.executable} -m pip install {top} (the package may have another name)"
    )
