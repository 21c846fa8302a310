"""Fetch pinned files into the cache, verify every byte once, and check cheaply afterwards.

Contract: :func:`fetch_jars` and :func:`fetch_archive` return a folder whose files are exactly the pinned ones. A file
is downloaded under ``partial/``, verified, and only then renamed into place, so a killed download never looks complete.
``verified.json`` in the folder holds size and modification time of each verified file; later calls compare only these.
Any number of processes may call at once: one fetches, the others wait (file lock).
Downloads go through jgo, which knows Maven's repository layout and its default repository.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Final

import requests
from filelock import FileLock

from perdure.local.display import Advance, Display
from perdure.local.errors import ChecksumError, FetchError
from perdure.local.pins import Pin, PinSet, sha256_of
from perdure.local.resources import require_disk

STAMP: Final = "verified.json"
_PARALLEL: Final = 6
_ATTEMPTS: Final = 3
_TIMEOUT_S: Final = 60
Fetch = Callable[[Pin, Path, Advance], Path]
"""Download one file into a folder, and return its path."""


def fetch_with_jgo(pin: Pin, folder: Path, advance: Advance) -> Path:
    """Download one file from Maven's default repository into ``folder``."""
    from jgo.maven import MavenContext, PythonResolver

    resolver = PythonResolver(progress_callback=lambda _name, _size: nullcontext(advance))
    context = MavenContext(resolver=resolver, repo_cache=folder, timeout=_TIMEOUT_S)
    component = context.project(pin.group, pin.artifact).at_version(pin.version)
    return Path(component.artifact(packaging=pin.packaging).resolve())


def fetch_jars(pins: PinSet, cache: Path, display: Display, fetch: Fetch = fetch_with_jgo) -> Path:
    """The folder with all files of ``pins``.

    :raises FetchError: no network, or the repository does not have a file.
    :raises ChecksumError: a file's bytes are not the pinned ones, twice.
    """
    folder = cache / f"{pins.name}-{pins.version}"
    with _lock(cache, pins.name):
        if is_verified(folder, pins):
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        missing = [pin for pin in pins.files if not _already_good(folder / pin.filename, pin, display)]
        if missing:
            require_disk(cache, sum(pin.size for pin in missing) * 2, "PERDURE_CACHE_DIR")
            with (
                _partial(cache, pins.name, display) as partial,
                _download(display, pins.name, missing) as advance,
                ThreadPoolExecutor(_PARALLEL) as pool,
            ):
                list(pool.map(_each(fetch, partial, folder, advance), missing))
        write_stamp(folder, pins, [folder / pin.filename for pin in pins.files])
    return folder


def fetch_archive(pins: PinSet, cache: Path, display: Display, fetch: Fetch = fetch_with_jgo) -> Path:
    """The folder that the one zip file of ``pins`` unpacks to; raises like :func:`fetch_jars`."""
    (pin,) = pins.files
    folder = cache / f"{pins.name}-{pins.version}"
    with _lock(cache, pins.name):
        if is_verified(folder, pins):
            return folder
        if folder.exists():
            display.say(f"{pins.name}: files in {folder} are missing or changed: fetching it again")
            shutil.rmtree(folder)
        require_disk(cache, pin.size * 3, "PERDURE_CACHE_DIR")
        with _partial(cache, pins.name, display) as partial, _download(display, pins.name, [pin]) as advance:
            archive = _each(fetch, partial, partial, advance)(pin)
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(partial / "unpacked")
            (top,) = (partial / "unpacked").iterdir()
            write_stamp(top, pins, [path for path in sorted(top.rglob("*")) if path.is_file()])
            top.rename(folder)
    return folder


def is_verified(folder: Path, pins: PinSet) -> bool:
    """Whether all files are there as they were when they were verified (size and time only: cheap)."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    if stamp.get("digest") != pins.digest:
        return False
    return all(_size_and_time(folder / name) == tuple(known) for name, known in stamp["files"].items())


def write_stamp(folder: Path, pins: PinSet, files: list[Path]) -> None:
    """Record that these files were verified just now."""
    known = {str(path.relative_to(folder)): _size_and_time(path) for path in files}
    temporary = folder / f"{STAMP}.partial"
    temporary.write_text(json.dumps({"digest": pins.digest, "files": known}))
    temporary.replace(folder / STAMP)


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _already_good(path: Path, pin: Pin, display: Display) -> bool:
    if not path.exists():
        return False
    if path.stat().st_size == pin.size and sha256_of(path) == pin.sha256:
        return True
    display.say(f"{path.name}: not the pinned file (damaged or half-finished): fetching it again")
    path.unlink()
    return False


def _each(fetch: Fetch, partial: Path, target: Path, advance: Advance) -> Callable[[Pin], Path]:
    """A function that downloads and verifies one file (again when the bytes are wrong), and puts it into ``target``."""

    def one(pin: Pin) -> Path:
        failure: FetchError | None = None
        for attempt in range(_ATTEMPTS):
            folder = partial / f"{pin.filename}.{attempt}"
            try:
                path = fetch(pin, folder, advance)
            except (requests.RequestException, RuntimeError, OSError) as error:
                failure = FetchError(
                    f"{pin.group}:{pin.artifact}:{pin.version} could not be fetched: {error}. "
                    "Is the network there? What was fetched so far is kept."
                )
                failure.__cause__ = error
                continue
            found = sha256_of(path)
            if found == pin.sha256:
                return path.replace(target / pin.filename)
            path.unlink()
            failure = ChecksumError(pin.filename, pin.sha256, found)
        raise failure or FetchError(f"{pin.filename} was not tried")

    return one


@contextmanager
def _partial(cache: Path, name: str, display: Display) -> Iterator[Path]:
    """A fresh folder for downloads; what an interrupted one left there is removed. Needs the lock."""
    root = cache / "partial"
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(f"{name}-*"):
        display.say(f"{name}: a half-finished download was left behind: starting it again")
        shutil.rmtree(leftover)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _download(display: Display, name: str, pins: list[Pin]) -> AbstractContextManager[Advance]:
    return display.download(name, sum(pin.size for pin in pins))


def _lock(cache: Path, name: str) -> FileLock:
    folder = cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")
