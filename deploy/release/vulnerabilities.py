"""Asks pip-audit whether a locked package has a known vulnerability.

Contract: exit status 0 when no locked package has one, 1 when one has, with pip-audit's table. Where the advisories cannot be
reached the audit is skipped with a message and status 0, unless ``--strict`` asks for 1. Whether they can be reached is
tried on ``CANARY``, a package with published advisories: an audit that does not find those would find nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")
CANARY = "jinja2==2.4.1"
"""Has advisories since 2014 (CVE-2014-0012, CVE-2014-1402)."""
TIMEOUT_S = 300.0


def audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pip-audit on pinned requirements without installing them."""
    command = (sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner", "off", *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)


def reachable() -> bool:
    """Whether the advisories of ``CANARY`` are found."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write(CANARY + "\n")
        requirements.flush()
        answer = audit("--no-deps", "--requirement", requirements.name)
    return answer.returncode == 1 and "PYSEC" in answer.stdout


def main(arguments: list[str]) -> int:
    """Audit the lock files; returns the exit status."""
    if not reachable():
        print(f"audit: SKIPPED: the advisories cannot be reached (none was found for {CANARY}, which has some)")
        return 1 if "--strict" in arguments else 0
    failed = 0
    for lock in LOCKS:
        answer = audit("--require-hashes", "--requirement", str(ROOT / lock))
        print(f"audit: {lock}: {'no known vulnerability' if answer.returncode == 0 else answer.stdout + answer.stderr}")
        failed |= answer.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
