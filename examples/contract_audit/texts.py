"""The text that is audited: read from a file or given, its digest, and where in it a line begins.

Positions everywhere in this example are offsets in characters from 0 into the decoded text, its line ends and form feeds included.
Lines are divided by line feeds and count from 1.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypedDict

LIMIT_BYTES = 2 * 1024 * 1024


class Source(TypedDict):
    """A text and where it is from."""

    title: str
    path: str
    """Empty if the text was given."""
    sha256: str
    """Of the bytes of the file, or of the given text as UTF-8; hexadecimal."""
    text: str


def read_file(path: str, sha256: str, title: str = "") -> Source:
    """Read a file, as UTF-8 or, where it is none, as Latin-1.

    Args:
        path: Where it is, on the machine that runs the agent.
        sha256: Of what must be there, hexadecimal. Whoever orders an audit knows the text: no other file is read out to them.
        title: Its path when empty.

    Raises:
        OSError: it cannot be read.
        ValueError: it is another text than ``sha256`` says, no text at all, or too long.

    """
    file = Path(path)
    if file.stat().st_size > LIMIT_BYTES:
        raise ValueError(f"{path} has more than {LIMIT_BYTES} bytes: give the part that is to be audited")
    data = file.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256.lower():
        raise ValueError(
            f"{path} is not the text that was ordered: its sha-256 is {found}, not {sha256}. Collect again"
        )
    if b"\0" in data:
        raise ValueError(f"{path} is no text: it has zero bytes")
    return Source(title=title or path, path=path, sha256=found, text=decode(data))


def given(text: str, title: str = "") -> Source:
    """A text that came with the order."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Source(title=title or f"text {digest[:12]}", path="", sha256=digest, text=text)


def decode(data: bytes) -> str:
    """Bytes of a file as text; Latin-1 reads whatever is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def line_of(text: str, position: int) -> int:
    """The line in which a position is."""
    return text.count("\n", 0, position) + 1
