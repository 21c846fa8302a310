"""The account that OpenSearch runs as, and folders that this account can reach.

OpenSearch refuses to run as root. Started by root, it therefore runs as ``nobody``. That account can often not enter
the folders of the caller (a home folder is usually 0700), so programs and data that it can not reach get a place under
``/var/tmp``, in a folder that belongs to root and that nobody else can write. Permissions of existing folders are never
changed. Started by anyone else, OpenSearch runs as that user and nothing here has any effect.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock

from perdure.local.errors import LocalError

_NOBODY: Final = 65534
_SHARED: Final = Path("/var/tmp/perdure-root")  # noqa: S108 (ownership and mode are checked before use)


@dataclass(frozen=True, slots=True)
class Account:
    """A user and group by number; needs no entry in /etc/passwd."""

    uid: int
    gid: int

    def may(self, access: str, path: Path) -> bool:
        """Ask the kernel: run ``test -r`` (or ``-w``, ``-x``) as this account."""
        asked = subprocess.run(
            ["test", f"-{access}", str(path)], user=self.uid, group=self.gid, extra_groups=[], check=False
        )
        return asked.returncode == 0

    def own(self, folder: Path) -> None:
        """Give a folder and all in it to this account."""
        if folder.stat().st_uid == self.uid:
            return
        for path in [*folder.rglob("*"), folder]:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def unprivileged_account() -> Account | None:
    """``nobody`` when this process is root, else None (the caller's own account will do)."""
    return Account(_NOBODY, _NOBODY) if os.geteuid() == 0 else None


def reachable_program(
    tree: Path, name: str, witness: str, account: Account | None, is_good: Callable[[Path], bool] = Path.exists
) -> Path:
    """``tree`` itself if the account can read ``witness`` in it, else a copy that it can read.

    :param name: of the copy; must change whenever the content does, so that all caches of this machine share one copy.
    :param is_good: whether a copy made earlier is still whole.
    """
    if account is None or account.may("r", tree / witness):
        return tree
    shared = _shared_folder("programs")
    copy = shared / name
    with FileLock(shared / f"{name}.lock"):
        if not is_good(copy):
            partial = shared / f"{name}.partial"
            for leftover in (partial, copy):
                shutil.rmtree(leftover, ignore_errors=True)
            shutil.copytree(tree, partial, copy_function=_copy_readable)
            for folder in [partial, *(path for path in partial.rglob("*") if path.is_dir())]:
                folder.chmod(0o755)
            partial.rename(copy)
    return copy


def reachable_data(folder: Path, account: Account | None) -> Path:
    """``folder`` itself (made if missing) if the account can enter it, else a folder of its own that it can."""
    folder.mkdir(parents=True, exist_ok=True)
    if account is None:
        return folder
    account.own(folder)
    if account.may("w", folder):
        return folder
    place = _shared_folder("data") / hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    place.mkdir(exist_ok=True)
    account.own(place)
    return place


def _copy_readable(source: str, target: str) -> str:
    """A hard link where the file is readable to all and on the same file system, else a copy that is."""
    mode = Path(source).stat().st_mode
    if mode & stat.S_IROTH:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
        return target
    shutil.copy2(source, target)
    Path(target).chmod(0o755 if mode & stat.S_IXUSR else 0o644)
    return target


def _shared_folder(part: str) -> Path:
    for folder in (_SHARED, _SHARED / part):
        try:
            folder.mkdir(mode=0o755)
        except FileExistsError:
            pass
        else:
            folder.chmod(0o755)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
            raise LocalError(
                f"{folder} exists, but it is not a folder that only root can write. Remove it; "
                "it is used because OpenSearch can not run as root and can not enter the folders of root."
            )
    return _SHARED / part
