"""What is released is what was locked, and the scan for secrets finds one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def test_every_locked_package_has_hashes() -> None:
    for lock in ("requirements.lock", "requirements-dev.lock"):
        entries = re.split(r"\n(?=\S)", (ROOT / lock).read_text().strip())
        assert len(entries) > 50
        assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


def test_the_bill_of_materials_names_every_locked_package(tmp_path: Path) -> None:
    written = tmp_path / "bom.json"
    command = ("requirements", "--pyproject", ROOT / "pyproject.toml", "--mc-type", "application", "--of", "JSON")
    subprocess.run((BIN / "cyclonedx-py", *command, "-o", written, ROOT / "requirements.lock"), check=True, timeout=120)
    bom = json.loads(written.read_text())
    locked = set(re.findall(r"^(\S+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert {(part["name"], part["version"]) for part in bom["components"]} == locked
    assert bom["metadata"]["component"]["name"] == "perdure"
    assert all(part["externalReferences"][0]["hashes"] for part in bom["components"])


@pytest.mark.parametrize("secret", ["AKIA" + "IOSFODNN7EXAMPLQ", "-----BEGIN RSA " + "PRIVATE KEY-----"])
def test_the_scan_finds_a_secret(tmp_path: Path, secret: str) -> None:
    leak, harmless = tmp_path / "leak.py", tmp_path / "harmless.py"
    leak.write_text(f'KEY = "{secret}"\n')
    harmless.write_text('KEY = "from the environment"\n')
    scan = (BIN / "detect-secrets-hook", "--no-verify")
    assert subprocess.run((*scan, harmless), check=False, timeout=120).returncode == 0
    assert subprocess.run((*scan, leak), check=False, timeout=120, capture_output=True).returncode == 1
