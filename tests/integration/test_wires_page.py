"""docs/security-wires.md: its commands run as they stand, in an empty folder, and write what the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.schemas.grants import SERVICES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "security-wires.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("perdure ")]
INLINE = re.findall(r"`(openssl [^`]+)`", PAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every command of the page has run."""
    found = tmp_path_factory.mktemp("operator")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for number, command in enumerate([*COMMANDS, *INLINE]):
        with (found / f"{number}.out").open("wb") as output:
            environment = {"PATH": path, "HOME": str(found)}
            subprocess.run(["bash", "-euc", command], cwd=found, env=environment, stdout=output, timeout=60, check=True)
    return found


def test_the_page_has_the_commands_for_every_server() -> None:
    assert {form for form in ("kafka", "mongodb", "opensearch") if any(f"--format {form}" in one for one in COMMANDS)} == {
        "kafka", "mongodb", "opensearch",
    }  # fmt: skip
    assert INLINE


def test_the_lists_for_kafka_are_a_script(folder: Path) -> None:
    subprocess.run(["bash", "-n", "acls.sh"], cwd=folder, check=True)
    lines = [line for line in (folder / "acls.sh").read_text().splitlines() if not line.startswith("#")]
    assert {re.search(r"User:(\S+)", line)[1] for line in lines} == {  # type: ignore[index]
        name for name, one in SERVICES.items() if one.read_topics or one.written_topics
    }
    assert all("--bootstrap-server kafka.internal:9093" in line for line in lines)


def test_the_roles_for_the_database_name_every_user_but_those_that_have_none(folder: Path) -> None:
    text = (folder / "roles.js").read_text()
    assert set(re.findall(r'"createUser": "([a-z-]+)"', text)) == {n for n, one in SERVICES.items() if one.collections}


def test_the_roles_for_opensearch_are_requests(folder: Path) -> None:
    lines = [line for line in (folder / "roles.txt").read_text().splitlines() if not line.startswith("#")]
    asked = dict(zip(lines[::2], map(json.loads, lines[1::2]), strict=True))
    assert len(asked) == 2 * len([one for one in SERVICES.values() if one.indices])
    assert all(line.startswith("PUT _plugins/_security/api/") for line in asked)


def test_a_secret_has_256_bits(folder: Path) -> None:
    number = len(COMMANDS) + INLINE.index("openssl rand -hex 32")
    assert re.fullmatch(r"[0-9a-f]{64}\n", (folder / f"{number}.out").read_text())
