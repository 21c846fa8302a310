"""How a service process starts and ends: uvloop, logging, SIGTERM and SIGINT, one line for an error of configuration."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError

from perdure.chassis import at_rest
from perdure.chassis.environment import SecretFileError
from perdure.chassis.errors import PerdureError, StalledError
from perdure.chassis.keyring import KeyRing
from perdure.chassis.settings import ServiceSettings
from perdure.chassis.telemetry import configure_logging, logger

S = TypeVar("S", bound=ServiceSettings)


def run_service(name: str, settings_type: type[S], main: Callable[[S, asyncio.Event], Awaitable[None]]) -> None:
    """Parse the settings, run ``main(settings, stopping)`` until it returns, and exit.

    ``stopping`` is set by SIGTERM or SIGINT; ``main`` then ends in its own order. Exit status: 0 after an orderly end, 2 for
    settings or a project that cannot be used (starting again would not help), 1 for anything else.
    """
    try:
        settings = settings_type()
    except (ValidationError, SettingsError) as error:
        sys.stderr.write(f"{name}: {settings_problem(error)}\n")
        sys.exit(2)
    configure_logging(name, settings)
    log = logger(f"perdure.{name}")

    async def supervise() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        log.info("service.start", instance=settings.instance)
        switch_on(settings)
        collect_seldom()
        await main(settings, stopping)
        log.info("service.end")

    try:
        uvloop.run(supervise())
    except StalledError as error:
        log.critical("service.stalled", error=str(error))
        logging.shutdown()
        os._exit(1)  # an orderly end would wait for the thread that does not come back
    except PerdureError as error:
        log.error("service.failed", error=str(error))
        sys.exit(1 if error.retryable else 2)
    except Exception:
        log.exception("service.crashed")
        sys.exit(1)


def switch_on(settings: ServiceSettings) -> None:
    """Encrypt stored values with the keys of the settings, if there are any.

    Raises:
        ConfigurationError: they are no keys.

    """
    given = settings.encryption_keys
    at_rest.switch_on(KeyRing.parse(given.get_secret_value()) if given else None)


def collect_seldom() -> None:
    """Let Python's collector of cycles look less often, and not at what lives as long as the process.

    With the defaults a worker spent a fifth of its time in it: a superstep makes thousands of objects and few cycles. Less often
    still saves nothing more, and keeps the states of ended runs longer.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def settings_problem(error: ValidationError | SettingsError) -> str:
    """What is wrong with the environment, one variable a line."""
    if isinstance(error, SecretFileError):
        return f"the environment is not usable:\n  {error}"
    if isinstance(error, ValidationError):
        found = [("_".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
    else:  # it names the field in its text only
        field = str(error).partition('"')[2].partition('"')[0]
        found = [(field, f"it must be JSON, and cannot be read: {error.__cause__}")]
    # What concerns several variables names them in its text.
    lines = [
        f"  PERDURE_{name.upper()}: {said}" if name else f"  {said.removeprefix('Value error, ')}"
        for name, said in found
    ]
    return "the environment is not usable:\n" + "\n".join(lines)
