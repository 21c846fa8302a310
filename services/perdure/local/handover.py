"""What a command tells the supervisor that takes its place: how the services of the stack are started.

Contract: the supervisor can then start a service that ended before the supervisor had looked at it, as the command would have.
Passed in one environment variable of the supervisor, which takes it out at its start: no service inherits it, and no secret is
written to a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict

from perdure.local.process import exit_code, remember_exit_codes
from perdure.local.services import Services

VARIABLE: Final = "PERDURE_LOCAL_HANDOVER"


class Handover(BaseModel):
    """The arguments of :class:`~perdure.local.services.Services`, as one environment variable."""

    model_config = ConfigDict(frozen=True)

    names: list[str]
    """With repetition, as ``Services`` takes them."""
    env: dict[str, str]
    """What is added to the command's own environment, which the supervisor has anyway."""
    cwd: Path
    exit_codes: dict[int, int] = {}
    """Exit codes by pid of the services that have ended: only their parent learns them, and only once."""

    @classmethod
    def of(cls, services: Services) -> Self:
        """How these services are started."""
        processes = list(services.processes.values())
        first = processes[0] if processes else None
        ended = [process.identity for process in processes if process.identity and not process.running]
        codes = {identity.pid: code for identity in ended if (code := exit_code(identity)) is not None}
        return cls(
            names=[process.name for process in processes],
            env=dict(first.env) if first else {},
            cwd=first.cwd if first else Path.cwd(),
            exit_codes=codes,
        )

    @classmethod
    def take(cls) -> Self | None:
        """What the command that became this process has passed on, once; None if it passed nothing on."""
        passed = os.environ.pop(VARIABLE, None)
        return None if passed is None else cls.model_validate_json(passed)

    def environment(self) -> dict[str, str]:
        """All variables of the process that becomes the supervisor."""
        return {**os.environ, VARIABLE: self.model_dump_json()}

    def services(self, folder: Path) -> Services:
        """The services, none of them started yet through the returned object."""
        remember_exit_codes(self.exit_codes)
        return Services(self.env, folder, self.names, cwd=self.cwd)
