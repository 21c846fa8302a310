"""Looking at something once: a web address, a file, a disk. Says what is wrong, or nothing."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import aiohttp

CHECK_TIMEOUT_S = 10.0


async def look(target: str) -> str | None:
    """What is wrong with ``target`` now, in a few words; None when it is well.

    Args:
        target: ``http://`` or ``https://``: it answers with a status below 400. ``file:PATH?SECONDS``: the file exists, and was
            written in the last so many seconds (without: ever). ``disk:PATH?PERCENT``: at least so much of it is free (without: 5).

    Raises:
        ValueError: nobody knows how to look at that.

    """
    kind, _, rest = target.partition(":")
    if kind in ("http", "https"):
        return await _web(target)
    path, _, limit = rest.partition("?")
    if kind == "file":
        return await asyncio.to_thread(_file, Path(path), float(limit) if limit else None)
    if kind == "disk":
        return await asyncio.to_thread(_disk, Path(path), float(limit) if limit else 5.0)
    raise ValueError(f"target {target!r} is none of http://..., https://..., file:PATH?SECONDS, disk:PATH?PERCENT")


async def _web(url: str) -> str | None:
    timeout = aiohttp.ClientTimeout(total=CHECK_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            await answer.read()
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT_S:g} s"
    except aiohttp.ClientError as error:
        return f"no answer ({type(error).__name__})"
    return f"status {answer.status}" if answer.status >= 400 else None


def _file(path: Path, newest_s: float | None) -> str | None:
    try:
        age_s = time.time() - path.stat().st_mtime
    except OSError as error:
        return f"the file cannot be read ({error.strerror})"
    return f"the file was not written for {newest_s:g} s" if newest_s is not None and age_s > newest_s else None


def _disk(path: Path, percent: float) -> str | None:
    try:
        usage = shutil.disk_usage(path)
    except OSError as error:
        return f"the disk cannot be read ({error.strerror})"
    return f"less than {percent:g} % free" if usage.free < usage.total * percent / 100 else None
