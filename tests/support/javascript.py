"""JavaScript clients: installed once into the cache folder, in the versions of ``tests/clients/<name>``, and run or built there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest

from perdure.local.settings import default_cache_dir

FOLDER = Path(__file__).parents[1] / "clients"
CLIENTS = FOLDER / "js"
CHAT_APP = FOLDER / "chat_app"
MANIFESTS = ("package.json", "package-lock.json")
INSTALL_S, RUN_S = 300, 180


def installed_clients() -> Path:
    """The folder that has ``node_modules``; skips the test where node or the packages are missing, and fails it in CI."""
    return _installed(CLIENTS)


def run_script(name: str, *arguments: str) -> Any:
    """Run a script of ``tests/clients/js``; what it wrote, as JSON."""
    folder = installed_clients()
    with tempfile.TemporaryDirectory(dir=folder) as place:  # node looks for packages beside and above a script
        for one in CLIENTS.glob("*.mjs"):
            shutil.copy(one, place)
        command = ["node", str(Path(place) / name), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@contextmanager
def chat_app() -> Iterator[str]:
    """agent-chat-ui as its own package builds it, served at an address of its own, which is given."""
    folder = _installed(CHAT_APP, _build_chat_app) / "app" / "dist"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Page, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, name="chat app")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Page(SimpleHTTPRequestHandler):
    """Serves files without a line in the log for each."""

    def log_message(self, *_: object) -> None:
        pass


def _build_chat_app(folder: Path) -> subprocess.CompletedProcess[str]:
    shutil.copytree(folder / "node_modules" / "create-agent-chat-app" / "templates" / "vite", folder / "app")
    vite = folder / "node_modules" / "vite" / "bin" / "vite.js"
    return _run(["node", str(vite), "build"], folder / "app")


def _installed(manifests: Path, build: Callable[[Path], subprocess.CompletedProcess[str]] | None = None) -> Path:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            _missing(f"{program} is not installed")
    digest = hashlib.blake2b(b"".join((manifests / name).read_bytes() for name in MANIFESTS), digest_size=8).hexdigest()
    folder = default_cache_dir() / "js-clients" / digest
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as made:
            for name in MANIFESTS:
                shutil.copy(manifests / name, made)
            done = _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], Path(made))
            if done.returncode:
                _missing(f"npm could not install them: {done.stderr[-500:]}")
            if build is not None:
                done = build(Path(made))
                assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
            with contextlib.suppress(OSError):  # another session was faster
                Path(made).rename(folder)
    return folder


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)


def _missing(why: str) -> NoReturn:
    text = f"the JavaScript clients cannot run: {why}"
    if os.environ.get("CI") == "true":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)
