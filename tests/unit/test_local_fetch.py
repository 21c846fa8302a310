"""Fetching pinned files: verified, repaired, refused. The repository is in memory; the stack uses the real one."""

from __future__ import annotations

import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perdure.local.display import Advance, SilentDisplay
from perdure.local.errors import ChecksumError, FetchError, TooLittleSpaceError
from perdure.local.fetch import STAMP, fetch_archive, fetch_jars, is_verified
from perdure.local.pins import Pin, PinSet, load_pins, sha256_of


class Repository:
    """Serves files from memory; counts; can damage the next ones."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.served: list[str] = []
        self.damaged = 0
        self.unreachable = 0

    def add(self, name: str, content: bytes, folder: Path, packaging: str = "jar") -> Pin:
        path = folder / "source"
        path.write_bytes(content)
        pin = Pin(
            group="org.example",
            artifact=name,
            version="1.0",
            packaging=packaging,
            size=len(content),
            sha256=sha256_of(path),
        )
        self.files[pin.filename] = content
        return pin

    def __call__(self, pin: Pin, folder: Path, advance: Advance) -> Path:
        if self.unreachable:
            self.unreachable -= 1
            raise OSError("no route to host")
        self.served.append(pin.filename)
        content = self.files[pin.filename]
        if self.damaged:
            self.damaged -= 1
            content = content[:-1] + b"?"
        folder.mkdir(parents=True)
        (folder / pin.filename).write_bytes(content)
        advance(len(content))
        return folder / pin.filename


class Lines(SilentDisplay):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def repository() -> Repository:
    return Repository()


@pytest.fixture
def jars(repository: Repository, tmp_path: Path) -> PinSet:
    files = tuple(repository.add(name, name.encode() * 1000, tmp_path) for name in ("alpha", "beta", "gamma"))
    return PinSet(name="server", version="1.0", files=files)


def test_jars_are_fetched_once(repository: Repository, jars: PinSet, tmp_path: Path) -> None:
    folder = fetch_jars(jars, tmp_path, SilentDisplay(), repository)
    again = fetch_jars(jars, tmp_path, SilentDisplay(), repository)
    assert folder == again
    assert sorted(repository.served) == ["alpha-1.0.jar", "beta-1.0.jar", "gamma-1.0.jar"]
    assert (folder / "beta-1.0.jar").read_bytes() == b"beta" * 1000
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_damaged_download_is_tried_again(repository: Repository, jars: PinSet, tmp_path: Path) -> None:
    repository.damaged = 2
    folder = fetch_jars(jars, tmp_path, SilentDisplay(), repository)
    assert is_verified(folder, jars)
    assert len(repository.served) == 5


def test_wrong_bytes_every_time_are_refused(repository: Repository, jars: PinSet, tmp_path: Path) -> None:
    repository.damaged = 1000
    with pytest.raises(ChecksumError, match=r"sha256 is [0-9a-f]{64}, pinned is [0-9a-f]{64}"):
        fetch_jars(jars, tmp_path, SilentDisplay(), repository)
    assert list(tmp_path.glob("server-1.0/*.jar")) == []


def test_no_network_says_so_and_keeps_what_is_there(repository: Repository, jars: PinSet, tmp_path: Path) -> None:
    one = jars.model_copy(update={"files": jars.files[:1]})
    fetch_jars(one, tmp_path, SilentDisplay(), repository)
    repository.unreachable = 1000
    with pytest.raises(FetchError, match=r"org.example:(beta|gamma):1.0 could not be fetched: no route to host"):
        fetch_jars(jars, tmp_path, SilentDisplay(), repository)
    repository.unreachable = 0
    fetch_jars(jars, tmp_path, SilentDisplay(), repository)
    assert repository.served.count("alpha-1.0.jar") == 1


def test_a_file_changed_later_is_fetched_again(repository: Repository, jars: PinSet, tmp_path: Path) -> None:
    folder = fetch_jars(jars, tmp_path, SilentDisplay(), repository)
    (folder / "beta-1.0.jar").write_bytes(b"half")
    said = Lines()
    fetch_jars(jars, tmp_path, said, repository)
    assert (folder / "beta-1.0.jar").read_bytes() == b"beta" * 1000
    assert said.lines == ["beta-1.0.jar: not the pinned file (damaged or half-finished): fetching it again"]
    assert repository.served.count("beta-1.0.jar") == 2
    assert len(repository.served) == 4


def test_a_touched_but_right_file_is_verified_not_fetched(repository: Repository, jars: PinSet, tmp_path: Path) -> None:
    folder = fetch_jars(jars, tmp_path, SilentDisplay(), repository)
    os.utime(folder / "beta-1.0.jar", (1, 1))
    assert not is_verified(folder, jars)
    fetch_jars(jars, tmp_path, SilentDisplay(), repository)
    assert is_verified(folder, jars)
    assert len(repository.served) == 3


def test_a_killed_download_leaves_nothing_that_looks_complete(
    repository: Repository, jars: PinSet, tmp_path: Path
) -> None:
    leftover = tmp_path / "partial" / "server-killed"
    leftover.mkdir(parents=True)
    (leftover / "alpha-1.0.jar").write_bytes(b"al")
    said = Lines()
    folder = fetch_jars(jars, tmp_path, said, repository)
    assert is_verified(folder, jars)
    assert not leftover.exists()
    assert said.lines == ["server: a half-finished download was left behind: starting it again"]


def test_many_at_once_fetch_once(repository: Repository, jars: PinSet, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(fetch_jars, jars, tmp_path, SilentDisplay(), repository) for _ in range(8)]
    assert len({call.result() for call in calls}) == 1
    assert len(repository.served) == 3


def test_an_archive_is_unpacked_and_repaired(repository: Repository, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("server-1.0/lib/core.jar", "core")
        archive.writestr("server-1.0/config/settings", "x: 1")
    pin = repository.add("server", (tmp_path / "made.zip").read_bytes(), tmp_path, "zip")
    pins = PinSet(name="server", version="1.0", files=(pin,))
    cache = tmp_path / "cache"
    folder = fetch_archive(pins, cache, SilentDisplay(), repository)
    assert (folder / "lib" / "core.jar").read_text() == "core"
    assert fetch_archive(pins, cache, SilentDisplay(), repository) == folder
    (folder / "config" / "settings").unlink()
    fetch_archive(pins, cache, SilentDisplay(), repository)
    assert (folder / "config" / "settings").read_text() == "x: 1"
    assert len(repository.served) == 2


def test_too_little_disk_is_said_before_anything_is_fetched(repository: Repository, tmp_path: Path) -> None:
    huge = repository.add("huge", b"x", tmp_path).model_copy(update={"size": 1 << 60})
    pins = PinSet(name="server", version="1.0", files=(huge,))
    with pytest.raises(TooLittleSpaceError, match=r"disk: \d+ MB needed, \d+ MB available.*PERDURE_CACHE_DIR"):
        fetch_jars(pins, tmp_path, SilentDisplay(), repository)
    assert repository.served == []


def test_a_stamp_of_other_pins_does_not_count(repository: Repository, jars: PinSet, tmp_path: Path) -> None:
    folder = fetch_jars(jars, tmp_path, SilentDisplay(), repository)
    stamp = json.loads((folder / STAMP).read_text())
    (folder / STAMP).write_text(json.dumps(stamp | {"digest": "other"}))
    assert not is_verified(folder, jars)


def test_the_pins_are_consistent() -> None:
    pins = load_pins()
    assert set(pins) == {"kafka", "opensearch"}
    versions = {pin.artifact: pin.version for pin in pins["kafka"].files}
    assert versions["kafka_2.13"] == versions["kafka-clients"] == pins["kafka"].version
    assert versions["log4j-slf4j-impl"] == versions["log4j-core"]
    assert all(len(pin.sha256) == 64 and pin.size > 0 for entry in pins.values() for pin in entry.files)
