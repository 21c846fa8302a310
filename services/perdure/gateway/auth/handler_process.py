"""Runs the project's ``auth`` handlers in a process of their own, and asks it.

Contract: a question is answered within ``timeout_s``, or it fails: nobody is let in by a process that is slow, broken or gone. A
process whose event loop stands still, or that answers what is no answer, is ended. A process that has ended is started again after
a growing pause; questions fail until it answers. A slow handler alone fails its own question only.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, Final

from perdure.chassis import json
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.telemetry import logger
from perdure.gateway.http.problems import RequestProblem
from perdure.schemas.auth_questions import LINE_LIMIT, SOCKET_VARIABLE, AuthAnswer

log = logger(__name__)

START_TIMEOUT_S: Final = 60.0
END_TIMEOUT_S: Final = 2.0
PING_S: Final = 2.0
PAUSES_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
KEPT: Final = ("PERDURE_LOG_LEVEL", "PERDURE_LOG_FORMAT")
"""The gateway's own settings that the process gets; the others hold addresses and secrets of the stores."""


class HandlerProcess:
    """The process of the handlers that a ``langgraph.json`` names."""

    def __init__(self, file: Path, timeout_s: float) -> None:
        """Start nothing yet. ``timeout_s``: for each question."""
        self._file, self._timeout_s = file.resolve(), timeout_s
        self._ids = count(1)
        self._waiting: dict[int, asyncio.Future[AuthAnswer]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._probing: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None

    @property
    def answers(self) -> bool:
        """Whether the handlers are loaded."""
        return self._writer is not None

    async def started(self) -> None:
        """Return once the handlers are loaded for the first time; :meth:`run` is running.

        Raises:
            ConfigurationError: they cannot be loaded.

        """
        if self._first is None:
            self._first = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._first)

    async def ask(self, ask: str, content: Mapping[str, Any]) -> AuthAnswer:
        """The answer to a question, whatever it says.

        Raises:
            RequestProblem: ``auth-unavailable``: there is none, or a handler failed.

        """
        writer = self._writer
        if writer is None:
            raise unavailable("they are being started")
        line = json.dumps({**content, "ask": ask, "id": (id_ := next(self._ids))}) + b"\n"
        answered: asyncio.Future[AuthAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[id_] = answered
        try:
            async with asyncio.timeout(self._timeout_s):
                writer.write(line)
                await writer.drain()
                answer = await answered
        except TimeoutError:
            if self._probing is None or self._probing.done():
                self._probing = asyncio.create_task(self._end_if_silent())
            raise unavailable(f"they did not answer within {self._timeout_s:g} seconds") from None
        except OSError as error:
            raise unavailable("they are being started again") from error
        finally:
            self._waiting.pop(id_, None)
        if "failed" in answer:
            log.error("gateway.auth_handler_failed", ask=ask, detail=answer["failed"])
            raise unavailable("a handler failed; the gateway's log has more")
        return answer

    async def run(self) -> None:
        """Keep the process going, until this task is cancelled."""
        failures = 0
        while True:
            began = monotonic()
            try:
                await self._run_once()
            except ConfigurationError as error:
                log.error("gateway.auth_handlers_not_started", detail=str(error))
                if self._first is not None and not self._first.done():
                    self._first.set_exception(error)
            failures = 0 if monotonic() - began > PAUSES_S[-1] else failures
            pause = PAUSES_S[min(failures, len(PAUSES_S) - 1)]
            failures += 1
            log.warning("gateway.auth_handlers_ended", again_in_s=pause)
            await asyncio.sleep(pause)

    async def _end_if_silent(self) -> None:
        """End the process if its event loop stands still, as it may for ever; it answers a ping in no time otherwise."""
        writer, process, id_ = self._writer, self._process, next(self._ids)
        if writer is None or process is None:
            return
        self._waiting[id_] = answered = asyncio.get_running_loop().create_future()
        writer.write(json.dumps({"ask": "ping", "id": id_}) + b"\n")
        try:
            async with asyncio.timeout(PING_S):
                await answered
        except TimeoutError:
            log.error("gateway.auth_handlers_hang", process=process.pid)
            with suppress(ProcessLookupError):
                process.kill()
        except OSError:
            return  # it has ended
        finally:
            self._waiting.pop(id_, None)

    async def _run_once(self) -> None:
        """Start the process, and pass its answers on until it ends.

        Raises:
            ConfigurationError: it says why it cannot start.

        """
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if _is_kept(name)}
        with theirs:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "perdure.auth_handlers",
                str(self._file),
                pass_fds=(theirs.fileno(),),
                env={**environment, SOCKET_VARIABLE: str(theirs.fileno())},
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_LIMIT)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                first = await reader.readline()
            if (
                problem := json.loads(first)["error"] if first else "the process ended while it imported them"
            ) is not None:
                raise ConfigurationError(f"{self._file}: auth: {problem}" if not first else problem)
            self._writer = writer
            log.info("gateway.auth_handlers_started", file=str(self._file), process=process.pid)
            if self._first is not None and not self._first.done():
                self._first.set_result(None)
            while line := await reader.readline():
                self._hear(line)
        except TimeoutError:
            raise ConfigurationError(f"{self._file}: auth did not load within {START_TIMEOUT_S:g} seconds") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("gateway.auth_handlers_garbled", detail=f"{type(error).__name__}: {error}")
            process.kill()
        finally:
            self._writer = None
            writer.close()
            await self._end(process)

    def _hear(self, line: bytes) -> None:
        answer: AuthAnswer = json.loads(line)
        answered = self._waiting.get(answer["id"])
        if answered is not None and not answered.done():
            answered.set_result(answer)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        for answered in self._waiting.values():
            if not answered.done():
                answered.set_exception(ConnectionResetError("the process of the auth handlers ended"))
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await process.wait()
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def _is_kept(name: str) -> bool:
    return name in KEPT or not name.startswith("PERDURE_")


def unavailable(why: str) -> RequestProblem:
    """The handlers say nothing that counts."""
    return RequestProblem(
        "auth-unavailable",
        f"The project's auth handlers cannot be asked: {why}. Try again.",
        headers={"Retry-After": "1"},
    )
