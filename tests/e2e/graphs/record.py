"""One line appended to a file, whole, whoever else appends: how a test counts what ran."""

from __future__ import annotations

import os


def append(path: str, line: str) -> None:
    """Append ``line`` with one write to a file opened with O_APPEND."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


def count(path: str) -> int:
    """How many lines the file has; 0 without a file."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0
