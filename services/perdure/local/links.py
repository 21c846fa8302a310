"""Links to answer questions on this machine: a local stack offers them without anybody setting a secret.

Contract: the secret is made once for a data folder and kept there, readable by the user alone, so that links survive a restart.
Secret and URL are defaulted each on its own; what the environment sets stays as it is: an empty secret switches links off.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SECRET: Final = "PERDURE_LINK_SECRET"  # noqa: S105 - the name of the variable
PUBLIC_URL: Final = "PERDURE_PUBLIC_URL"
FILE: Final = "link-secret"


def link_environment(folder: Path, environment: Mapping[str, str], gateway_port: int) -> dict[str, str]:
    """The settings that gateway and notifier need to offer links and that neither ``environment`` nor this process's own sets.

    Args:
        folder: The stack's folder, which keeps the secret.
        environment: What is added to this process's environment for the services.
        gateway_port: Of the gateway on this machine, where links lead by default.

    """
    given = {**os.environ, **environment}
    missing: dict[str, str] = {}
    if SECRET not in given:
        missing[SECRET] = _secret(folder)
    if PUBLIC_URL not in given:
        missing[PUBLIC_URL] = f"http://127.0.0.1:{gateway_port}"
    return missing


def _secret(folder: Path) -> str:
    path = folder / FILE
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        pass  # of an earlier start
    return path.read_text()
