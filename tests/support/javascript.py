"""JavaScript clients: installed once into the cache folder, in the versions of ``tests/clients/js``, and run with node."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

from perdure.local.settings import default_cache_dir

CLIENTS = Path(__file__).parents[1] / "clients" / "js"
MANIFESTS = ("package.json", "package-lock.json")
INSTALL_S, RUN_S = 300, 180


def installed_clients() -> Path:
    """The folder that has ``node_modules``; skips the test where node or the packages are missing, and fails it in CI."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            _missing(f"{program} is not installed")
    digest = hashlib.blake2b(b"".join((CLIENTS / name).read_bytes() for name in MANIFESTS), digest_size=8).hexdigest()
    folder = default_cache_dir() / "js-clients" / digest
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as made:
            for name in MANIFESTS:
                shutil.copy(CLIENTS / name, made)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            if done.returncode:
                _missing(f"npm could not install them: {done.stderr[-500:]}")
            with contextlib.suppress(OSError):  # another session was faster
                Path(made).rename(folder)
    return folder


def run_script(name: str, *arguments: str) -> Any:
    """Run a script of ``tests/clients/js``; what it wrote, as JSON."""
    folder = installed_clients()
    with tempfile.TemporaryDirectory(dir=folder) as place:  # node looks for packages beside and above a script
        script = shutil.copy(CLIENTS / name, place)
        done = subprocess.run(["node", script, *arguments], capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def _missing(why: str) -> NoReturn:
    text = f"the JavaScript clients cannot run: {why}"
    if os.environ.get("CI") == "true":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)
