"""Secrets of a local stack: links to answer questions are offered, and verdicts signed, without anybody setting a secret.

Contract: a secret is made once for a data folder and kept there, readable by the user alone, so that links survive a restart.
Secrets and URL are defaulted each on its own; what the environment sets stays as it is: an empty secret switches links or
signatures off. A service gets no secret that it has no use for: agent-step, which runs the code of graphs, cannot make links.
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
SIGNING_SECRET: Final = "PERDURE_SIGNING_SECRET"  # noqa: S105 - the name of the variable
SIGNING_FILE: Final = "signing-secret"
OWNERS: Final = {SECRET: ("gateway", "notifier"), SIGNING_SECRET: ("agent_step", "validator", "scheduler")}
"""The services that get a secret."""


def link_environment(folder: Path, environment: Mapping[str, str], gateway_port: int) -> dict[str, str]:
    """The secrets and the address of links that services need and that neither ``environment`` nor this process's own sets.

    Args:
        folder: The stack's folder, which keeps the secret.
        environment: What is added to this process's environment for the services.
        gateway_port: Of the gateway on this machine, where links lead by default.

    """
    given = {**os.environ, **environment}
    missing: dict[str, str] = {}
    if SECRET not in given:
        missing[SECRET] = _secret(folder / FILE)
    if SIGNING_SECRET not in given:
        missing[SIGNING_SECRET] = _secret(folder / SIGNING_FILE)
    if PUBLIC_URL not in given:
        missing[PUBLIC_URL] = f"http://127.0.0.1:{gateway_port}"
    return missing


def of_service(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a service is started with: those of others' secrets are empty."""
    given = {**os.environ, **environment}
    foreign = [secret for secret, owners in OWNERS.items() if name not in owners and secret in given]
    return {**environment, **dict.fromkeys(foreign, "")}


def _secret(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        pass  # of an earlier start
    return path.read_text()
