"""Where the MongoDB-compatible server comes from: SecantusDB, built on WiredTiger, for local and test use only.

Two builds of the same server. ``secantusd-rs`` is 5 to 25 times faster at writing, but takes minutes to compile; it is
used when it is in the cache or on the PATH. ``secantusd-py`` comes from PyPI in seconds, into a virtual environment of
its own, so that a newcomer's first start does not wait for a compiler. Both are separate programs (GPL-2.0) that the
user's machine fetches; nothing of them is imported or shipped.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from filelock import FileLock

from perdure.local.display import Display
from perdure.local.errors import FetchError, LocalError
from perdure.local.process import last_lines
from perdure.local.resources import require_disk

RUST_VERSION: Final = "0.5.3-beta.196"
_BINARY: Final = "secantusd-rs"
_REQUIREMENTS: Final = Path(__file__).with_name("secantus-requirements.txt")
_BUILD_DISK: Final = 3 << 30
_VENV_DISK: Final = 600 << 20


def find_secantus_rs(cache: Path) -> Path | None:
    """The compiled server from the cache or the PATH, or None."""
    cached = _rust_root(cache) / "bin" / _BINARY
    if cached.exists():
        return cached
    found = shutil.which(_BINARY)
    return Path(found) if found else None


def secantus(cache: Path, display: Display) -> Path:
    """The server to start: ``secantusd-rs`` if it is there, else ``secantusd-py``, fetched if need be."""
    return find_secantus_rs(cache) or fetch_secantus_py(cache, display)


def build_secantus_rs(cache: Path, display: Display) -> Path:
    """Compile ``secantusd-rs`` into the cache with cargo: about 5 minutes on 2 cores; nothing to do if it is there.

    :raises FetchError: cargo is missing or failed (it also needs cmake and a C compiler).
    """
    found = find_secantus_rs(cache)
    if found:
        return found
    cargo = shutil.which("cargo")
    if cargo is None:
        raise FetchError("cargo is not on the PATH: install Rust, or go on with the slower secantusd-py")
    missing = [tool for tool in ("cmake", "cc") if shutil.which(tool) is None]
    if missing:
        raise FetchError(f"to compile secantus-mdb, {' and '.join(missing)} must be installed as well")
    root = _rust_root(cache)
    log = cache / "logs" / "secantus-build.log"
    with _lock(cache, "secantus-rs"):
        if (root / "bin" / _BINARY).exists():
            return root / "bin" / _BINARY
        require_disk(cache, _BUILD_DISK, "PERDURE_CACHE_DIR")
        partial = cache / "partial" / root.name
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        command = [cargo, "install", "secantus-mdb", "--version", RUST_VERSION, "--locked", "--ignore-rust-version"]
        env = {
            "CARGO_PROFILE_RELEASE_LTO": "off",
            "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
            "CARGO_TARGET_DIR": str(partial / "target"),
            **_rustup_home(),
        }
        with display.step(f"mongodb: compiling secantus-mdb {RUST_VERSION} (5 minutes on 2 cores; log: {log})"):
            _run([*command, "--root", str(partial)], log, env)
        shutil.rmtree(partial / "target", ignore_errors=True)
        partial.rename(root)
    return root / "bin" / _BINARY


def fetch_secantus_py(cache: Path, display: Display) -> Path:
    """Install ``secantusd-py`` from PyPI into its own virtual environment in the cache, with pinned hashes.

    :raises FetchError: pip failed; the message ends with its last lines.
    """
    digest = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:12]
    root = cache / f"secantus-py-{digest}-py{sys.version_info.major}.{sys.version_info.minor}"
    program, stamp = root / "bin" / "secantusd-py", root / "complete"
    with _lock(cache, "secantus-py"):
        if stamp.exists() and os.access(program, os.X_OK) and (root / "bin" / "python").exists():
            return program
        if root.exists():
            display.say("mongodb: a half-finished installation of secantusd-py was left behind: starting it again")
            shutil.rmtree(root)
        require_disk(cache, _VENV_DISK, "PERDURE_CACHE_DIR")
        log = cache / "logs" / "secantus-install.log"
        with display.step("mongodb: installing secantusd-py from PyPI (145 MB)"):
            _run([sys.executable, "-m", "venv", str(root)], log, {})
            pip = [str(root / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
            _run([*pip, "--no-deps", "--require-hashes", "-r", str(_REQUIREMENTS)], log, {})
        stamp.touch()
    return program


def _run(command: list[str], log: Path, env: dict[str, str]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | env,
            check=False,
        )
    if done.returncode:
        lines = "\n".join(f"    {line}" for line in last_lines(log))
        raise FetchError(
            f"{Path(command[0]).name} failed with exit code {done.returncode}. Last lines of {log}:\n{lines}"
        )


def _rustup_home() -> dict[str, str]:
    """Where rustup keeps its toolchains when HOME is not the account's own folder: its cargo refuses to run without."""
    rustup = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".rustup"
    own = Path.home() / ".rustup" / "toolchains"
    if "RUSTUP_HOME" in os.environ or own.is_dir() or not (rustup / "toolchains").is_dir():
        return {}
    return {"RUSTUP_HOME": str(rustup)}


def _rust_root(cache: Path) -> Path:
    return cache / f"secantus-rs-{RUST_VERSION}"


def _lock(cache: Path, name: str) -> FileLock:
    folder = cache / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocalError(
            f"the cache folder {cache} can not be used: {error}. Choose another: PERDURE_CACHE_DIR"
        ) from error
    return FileLock(folder / f"{name}.lock")
