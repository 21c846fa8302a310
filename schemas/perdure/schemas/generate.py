"""``python -m perdure.schemas.generate [--check]``: writes the files that are generated from the models.

Contract: JSON Schema of every message and the AsyncAPI document under ``schemas/generated/``, the index templates under
``deploy/opensearch/``, the saved objects of Dashboards under ``deploy/dashboards/``. ``--check`` changes nothing: it shows what
differs, checks the golden files, and exits with 1 if something is wrong. For people who work on Perdure; nothing reads the
generated files at run time.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from perdure.schemas import asyncapi, dashboards, golden, index
from perdure.schemas.catalogue import ALL, file_stem

ROOT: Final = Path(__file__).resolve().parents[3]
GENERATED: Final = "schemas/generated"
OWNED: Final = (f"{GENERATED}/*", f"{index.FOLDER}/*.template.json", "deploy/dashboards/*.ndjson")
"""Where every file is generated: one that no model stands for any more is removed."""


def files(root: Path) -> dict[str, bytes]:
    """Every generated file by path relative to the repository ``root``."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    schemas = {f"{GENERATED}/{file_stem(m)}.schema.json": _json(_schema(m)) for m in ALL.values()}
    return {
        **schemas,
        f"{GENERATED}/asyncapi.json": _json(asyncapi.document(project["version"])),
        **index.generated_files(),
        **dashboards.generated_files(),
    }


def drift(root: Path) -> str:
    """A unified diff from what is in ``root`` to what would be generated; empty when they are equal."""
    expected = files(root)
    paths = sorted({*expected, *_present(root)})
    return "".join(_diff(root, path, expected.get(path, b"")) for path in paths)


def write(root: Path) -> list[str]:
    """Write what differs and remove what is generated no more; returns the paths."""
    expected = files(root)
    changed = []
    for path, data in expected.items():
        target = root / path
        if not target.exists() or target.read_bytes() != data:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            changed.append(path)
    for path in _present(root) - expected.keys():
        (root / path).unlink()
        changed.append(path)
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perdure.schemas.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail when something differs")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    options = parser.parse_args(arguments)
    if not options.check:
        for path in write(options.root):
            sys.stdout.write(f"{path}\n")
        return 0
    differences = drift(options.root)
    wrong = golden.problems(options.root / golden.FOLDER)
    sys.stdout.write(differences)
    for problem in wrong:
        sys.stdout.write(f"{golden.FOLDER}: {problem}\n")
    if differences:
        sys.stdout.write("generated files differ from the models: run `make fix`\n")
    return 1 if differences or wrong else 0


def _schema(message: Any) -> dict[str, Any]:
    schema: dict[str, Any] = message.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{file_stem(message)}", **schema}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _present(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for pattern in OWNED for p in root.glob(pattern)}


def _diff(root: Path, path: str, expected: bytes) -> str:
    target = root / path
    found = target.read_bytes() if target.exists() else b""
    if found == expected:
        return ""
    before, after = (data.decode(errors="replace").splitlines(keepends=True) for data in (found, expected))
    return "".join(difflib.unified_diff(before, after, path, f"{path} (generated)", n=2))


if __name__ == "__main__":
    sys.exit(main())
