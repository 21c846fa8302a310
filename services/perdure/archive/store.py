"""The archive store: a folder, S3, GCS or Azure by URL, through obstore.

Contract: :meth:`ArchiveStore.put` returns when the object is durable there (in a folder: synced to the disk, with the
folders that name it). Reading gives the bytes as they are stored; whoever reads compares the digest. Nothing is ever listed
to find an object: its key is in the thread's document.

Outside: credentials. The stores find them as their own tools do (``AWS_ACCESS_KEY_ID``, an instance's role, ...).
"""

from __future__ import annotations

import asyncio
import glob
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import from_url

from perdure.archive.errors import ArchiveDamagedError, ArchiveUnavailableError
from perdure.chassis.errors import ConfigurationError

if TYPE_CHECKING:
    from obstore.store import RetryConfig

PART_BYTES: Final = 8 * 1024 * 1024
"""Of a multipart upload: an object may have 10,000 parts, so 80 GB. An upload that dies leaves parts, which the store's own
lifecycle rule removes."""
PARTS_AT_ONCE: Final = 2
READ_BYTES: Final = 256 * 1024
RETRIES: Final[RetryConfig] = {"retry_timeout": timedelta(seconds=20)}
"""Of one request: while a thread is packed its runs wait, so a store that is away is not waited for long."""
SCHEMES: Final = ("file", "s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl", "https")
_CLIENT_OPTIONS: Final = frozenset(
    {"allow_http", "allow_invalid_certificates", "timeout", "connect_timeout", "proxy_url"}
)


class ArchiveStore:
    """One place for objects.

    Args:
        url: ``file:///folder`` (or just the folder), ``s3://bucket/prefix``, ``gs://...``, ``az://...``.
        options: Further settings of the store by obstore's names: ``endpoint``, ``region``, ``allow_http``, ...
        ca_file: Certificates (PEM) that the store's server may be verified with besides the system's.

    Raises:
        ConfigurationError: the URL, an option or the file of certificates cannot be used.

    """

    def __init__(self, url: str, options: Mapping[str, str] | None = None, ca_file: Path | None = None) -> None:
        self.url = url if "://" in url else Path(url).resolve().as_uri()
        parts = urlsplit(self.url)
        self._folder = Path(unquote(parts.path)) if parts.scheme == "file" else None
        if parts.scheme not in SCHEMES:
            raise ConfigurationError(
                f"PERDURE_ARCHIVE_URL {url!r}: the store must be a folder or begin with one of {', '.join(SCHEMES)}"
            )
        given = {name.lower(): value for name, value in (options or {}).items()}
        client: Any = {name: _plain(value) for name, value in given.items() if name in _CLIENT_OPTIONS}
        config: Any = {name: value for name, value in given.items() if name not in _CLIENT_OPTIONS}
        try:
            if ca_file is not None:
                client["root_certificate"] = _certificates(ca_file)
            if self._folder is not None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the states of agents are not everybody's
                self._store = from_url(self.url, mkdir=True)
            else:
                self._store = from_url(
                    self.url, config=config or None, client_options=client or None, retry_config=RETRIES
                )
        except (BaseError, OSError, ValueError) as error:
            raise ConfigurationError(
                f"PERDURE_ARCHIVE_URL {url!r}, PERDURE_ARCHIVE_OPTIONS or PERDURE_ARCHIVE_CA_FILE: {_said(error)}"
            ) from error

    async def put(self, key: str, pieces: AsyncIterator[bytes]) -> None:
        """Store an object, in parts as its bytes come; what they raise ends it, and there is no object.

        Raises:
            ArchiveUnavailableError: the store does not take it.

        """
        try:
            await obstore.put_async(self._store, key, pieces, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
            if self._folder is not None:
                await asyncio.to_thread(_sync, self._folder, key)
        except (BaseError, OSError) as error:
            raise ArchiveUnavailableError(self.url, f"store {key}", _said(error)) from error

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """The object's bytes, in pieces of about ``READ_BYTES``.

        Raises:
            ArchiveDamagedError: there is no such object.
            ArchiveUnavailableError: the store does not answer.

        """
        try:
            found = await obstore.get_async(self._store, key)
            async for chunk in found.stream(min_chunk_size=READ_BYTES):
                piece = memoryview(chunk)
                for start in range(0, len(piece), READ_BYTES):
                    yield bytes(piece[start : start + READ_BYTES])
        except (NotFoundError, FileNotFoundError) as error:
            raise ArchiveDamagedError(key, f"it is not in the archive store {self.url}") from error
        except (BaseError, OSError) as error:
            raise ArchiveUnavailableError(self.url, f"read {key}", _said(error)) from error

    async def delete(self, key: str) -> None:
        """Remove an object, and what a process that died while it stored it left in a folder; nothing happens when there is none.

        Raises:
            ArchiveUnavailableError: the store does not answer.

        """
        try:
            if self._folder is not None:
                await asyncio.to_thread(_remove_staged, self._folder / key)
            await obstore.delete_async(self._store, key)
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise ArchiveUnavailableError(self.url, f"delete {key}", _said(error)) from error


def _certificates(ca_file: Path) -> str:
    """The certificates of a file; obstore takes a text without any, and then verifies nothing with it."""
    ssl.create_default_context(cafile=ca_file)
    return ca_file.read_text()


def _said(error: Exception) -> str:
    """What a store said, without its dump of the request; what the connection broke on is deep in that dump."""
    text = str(error)
    said = text.partition("\n")[0].strip()
    return (
        f"{said} (the server's certificate is not trusted: PERDURE_ARCHIVE_CA_FILE)"
        if "InvalidCertificate(" in text
        else said
    )


def _plain(value: str) -> Any:
    return value.lower() == "true" if value.lower() in ("true", "false") else value


def _remove_staged(path: Path) -> None:
    """Remove ``name#1``, ...: the files that obstore writes an object to before it has its name."""
    for staged in path.parent.glob(f"{glob.escape(path.name)}#*"):
        staged.unlink(missing_ok=True)


def _sync(folder: Path, key: str) -> None:
    """Make an object and its name survive a power cut: a copy that is only in memory is no copy."""
    path = folder / key
    for one in (path, *path.parents):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if one == folder:
            return
