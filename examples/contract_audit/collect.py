"""Write orders for the agent: the legal texts of this machine, one a line (NDJSON), ready for ``perdure batches start``.

::

    python examples/contract_audit/collect.py --count 1000 -o contracts.ndjson [FOLDER ...]

Texts are the licence files of installed packages, ``/usr/share/common-licenses`` and the copyright files of system packages; other
FOLDERs are searched for licence files too. The same text (by sha-256) is taken once. Where there are fewer texts than orders, the
same texts are ordered again with another question, the jurisdiction whose law they should choose; nothing is made up.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from texts import LIMIT_BYTES

COMMON, DOCUMENTS = Path("/usr/share/common-licenses"), Path("/usr/share/doc")
JURISDICTIONS = ("", "California", "Delaware", "New York", "England", "Germany", "Netherlands", "Virginia")
"""The questions, in turn; the first asks none."""

LICENCE_NAMES = ("license", "licence", "copying", "notice", "unlicense", "eula", "terms", "copyright")
NO_TEXT = (".c", ".cfg", ".go", ".gz", ".h", ".js", ".json", ".png", ".py", ".pyc", ".rs", ".svg", ".toml", ".ts")  # fmt: skip
"""Files with such a name that are something else."""


class Found(NamedTuple):
    """A distinct text."""

    path: Path
    title: str
    sha256: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, write, and say what was found."""
    parser = argparse.ArgumentParser(description="Write orders for the contract audit, one a line.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="searched too")
    parser.add_argument("--only", action="store_true", help="search nothing but the FOLDERs")
    parser.add_argument("--count", type=int, default=1000, help="how many orders; 1000")
    parser.add_argument("-o", "--output", type=Path, default=Path("contracts.ndjson"), help="contracts.ndjson")
    options = parser.parse_args(arguments)
    for folder in options.folders:
        if not folder.is_dir():
            parser.error(f"{folder} is no folder")
    files = [*candidates(options.folders, only=options.only)]
    found = distinct(files)
    most = len(found) * len(JURISDICTIONS)
    if not 1 <= options.count <= most:
        parser.error(
            f"--count must be from 1 to {most} ({len(found)} distinct texts, {len(JURISDICTIONS)} questions each); "
            "name a FOLDER with further licence files for more"
        )
    lines = [json.dumps(order, ensure_ascii=False) + "\n" for order in islice(orders(found), options.count)]
    options.output.write_text("".join(lines), encoding="utf-8")
    texts = min(options.count, len(found))
    again = options.count - texts
    print(f"{options.output}: {options.count} orders of {texts} distinct texts.", file=sys.stderr)
    print(
        f"{len(files)} files were found, {len(found)} of them distinct; {again} orders repeat a text.", file=sys.stderr
    )
    return 0


def candidates(folders: Iterable[Path] = (), *, only: bool = False) -> Iterator[tuple[Path, str]]:
    """Files that should hold a legal text, in a fixed order, each with a title; links are not followed."""
    if not only:
        for folder in sorted({Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))}):
            yield from _licences(folder)
        yield from ((file, f"{COMMON.name}/{file.name}") for file in _files(COMMON.glob("*")))
        yield from ((file, f"{file.parent.name} (copyright)") for file in _files(DOCUMENTS.glob("*/copyright")))
    for folder in folders:
        yield from _licences(folder.resolve())


def distinct(files: Iterable[tuple[Path, str]]) -> list[Found]:
    """One for each text: the first file that holds it. What cannot be read, is empty, too long or binary is left out."""
    found: dict[str, Found] = {}
    for path, title in files:
        try:
            data = path.read_bytes()
        except OSError as error:
            print(f"{path} is left out: {error.strerror}", file=sys.stderr)
            continue
        if not data.strip() or b"\0" in data or len(data) > LIMIT_BYTES:
            continue
        digest = hashlib.sha256(data).hexdigest()
        found.setdefault(digest, Found(path, title, digest))
    return [*found.values()]


def orders(found: Sequence[Found]) -> Iterator[dict[str, object]]:
    """Items of a batch: every text with the first question, then every text with the next."""
    for jurisdiction in JURISDICTIONS:
        for text in found:
            asked = {"jurisdiction": jurisdiction} if jurisdiction else {}
            order = {"path": str(text.path), "sha256": text.sha256, "title": text.title, **asked}
            yield {"input": order, "ref": " for ".join(filter(None, (text.title, jurisdiction)))}


def _licences(folder: Path) -> Iterator[tuple[Path, str]]:
    for file in _files(folder.rglob("*")):
        inside = file.relative_to(folder)
        named = file.name.lower().startswith(LICENCE_NAMES) and file.suffix.lower() not in NO_TEXT
        if named or inside.match("*.dist-info/licenses/**/*") or inside.match("*.dist-info/licenses/*"):
            yield file, str(inside)


def _files(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    sys.exit(main())
