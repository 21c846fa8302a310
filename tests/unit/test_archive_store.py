"""The archive store over a folder, and what it says about places that cannot be used."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.archive import store as places
from perdure.archive.errors import ArchiveDamagedError, ArchiveUnavailableError
from perdure.archive.store import PART_BYTES, ArchiveStore
from perdure.chassis.errors import ConfigurationError
from perdure.local.resources import free_port

KEY = "tenant-a/7c/t:1@2-x.zst"


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1_000_000):
        yield data[start : start + 1_000_000]


async def read(store: ArchiveStore, key: str) -> bytes:
    return b"".join([piece async for piece in store.read(key)])


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [0, 10, 2 * PART_BYTES + 17])
async def test_what_is_stored_is_read_until_it_is_deleted(tmp_path: Path, size: int) -> None:
    store = ArchiveStore(str(tmp_path / "not made yet"))
    data = (b"0123456789" * (size // 10 + 1))[:size]
    await store.put(KEY, pieces(data))
    assert await read(ArchiveStore(store.url), KEY) == data
    await store.delete(KEY)
    await store.delete(KEY)
    with pytest.raises(ArchiveDamagedError, match="it is not in the archive store file://"):
        await read(store, KEY)


async def test_pieces_that_end_with_an_error_leave_no_object(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (PART_BYTES + 1)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await ArchiveStore(str(tmp_path)).put(KEY, broken())
    assert files(tmp_path) == []


async def test_what_a_process_left_that_was_killed_while_it_stored_goes_with_its_object(tmp_path: Path) -> None:
    script = f"""
import asyncio, os
from perdure.archive.store import PART_BYTES, ArchiveStore

async def pieces():
    while True:
        yield os.urandom(PART_BYTES)
        if [name for _, _, files in os.walk({str(tmp_path)!r}) for name in files]:
            os.kill(os.getpid(), 9)

asyncio.run(ArchiveStore({str(tmp_path)!r}).put({KEY!r}, pieces()))
"""
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    other = tmp_path / "tenant-a" / "7c" / "t:1@2-y.zst#1"
    other.write_bytes(b"of another process at work")
    assert len(files(tmp_path)) == 2
    await ArchiveStore(str(tmp_path)).delete(KEY)
    assert files(tmp_path) == [other]


def test_a_folder_that_is_made_is_for_its_owner_only(tmp_path: Path) -> None:
    ArchiveStore(str(tmp_path / "archive"))
    assert (tmp_path / "archive").stat().st_mode & 0o777 == 0o700


async def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    store = ArchiveStore(str(tmp_path / "archive"))
    (tmp_path / "archive" / "tenant-a").write_bytes(b"in the way")
    with pytest.raises(ArchiveUnavailableError, match=f"cannot store {KEY}: .*Check PERDURE_ARCHIVE_URL"):
        await store.put(KEY, pieces(b"x"))


async def test_a_store_that_does_not_answer_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "RETRIES", {"max_retries": 1})
    options = {"endpoint": f"http://127.0.0.1:{free_port()}", "allow_http": "true", "region": "us-east-1"}
    store = ArchiveStore("s3://archive/x", options | {"access_key_id": "a", "secret_access_key": "b"})
    with pytest.raises(ArchiveUnavailableError) as raised:
        await store.delete(KEY)
    assert raised.value.retryable
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "options"), [("ftp://host/x", {}), ("s3://", {}), ("s3://bucket", {"endpont": "http://x"})]
)
def test_a_place_that_cannot_be_used_is_refused_with_the_name_of_the_setting(url: str, options: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="PERDURE_ARCHIVE_URL") as raised:
        ArchiveStore(url, options)
    assert "\n" not in str(raised.value)


def test_a_file_without_a_certificate_is_refused_with_the_name_of_the_setting(tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("no certificate\n")
    with pytest.raises(ConfigurationError, match="PERDURE_ARCHIVE_CA_FILE"):
        ArchiveStore("s3://bucket", {"endpoint": "https://127.0.0.1:1"}, empty)
