"""Logs (structlog, one JSON object a line on stderr) and metrics (prometheus-client). Configured once, by the composition root.

Contract: whatever a record holds, its line is written. Every record made in a context for which :func:`add_to_logs` was called
carries the fields given there, whoever makes it: our code, a library, or the user's, with structlog or with ``logging``.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Final

import structlog

from perdure.chassis.json import dumps
from perdure.chassis.settings import ServiceSettings

Logger = structlog.stdlib.BoundLogger
Event = MutableMapping[str, Any]
Fields = Callable[[], Mapping[str, Any]]

QUIET: Final = ("aiokafka", "faust", "mode", "pymongo", "asyncio", "aiohttp.access", "httpx", "httpcore")
"""Libraries that log every request, or their own life, at INFO."""
_fields: ContextVar[Fields | None] = ContextVar("perdure_log_fields", default=None)


def add_to_logs(fields: Fields) -> None:
    """Add what ``fields`` returns to every record made in the current context (a task and what it starts) from now on.

    ``fields`` is called when a record is made, so it costs nothing while nobody logs; a field that the record has itself stays.
    """
    _fields.set(fields)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Renders structlog's records without copying them first, which took a third of the time of a line."""

    def __init__(self, renderer: Any, foreign_pre_chain: list[Any]) -> None:
        remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
        super().__init__(foreign_pre_chain=foreign_pre_chain, processors=[remove_meta, renderer])
        self._renderer = renderer

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        if isinstance(record.msg, dict) and hasattr(record, "_logger"):
            return str(self._renderer(None, record.levelname, dict(record.msg)))
        return super().format(record)


def configure_logging(service: str, settings: ServiceSettings) -> None:
    """Send our logs and the libraries' to stderr in one format."""

    def name_service(_: Any, __: str, event: Event) -> Event:
        event["service"] = service
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_fields,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_service,
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=_dumps)
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(renderer, shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for noisy in QUIET:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It logs a traceback for every attempt that fails; what it raises says the same, and we log that.
    logging.getLogger("opensearch").setLevel(logging.ERROR)


def logger(name: str) -> Logger:
    """A structured logger."""
    log: Logger = structlog.stdlib.get_logger(name)
    return log


def _add_fields(_: Any, __: str, event: Event) -> Event:
    fields = _fields.get()
    if fields is not None:
        for name, value in fields().items():
            event.setdefault(name, value)
    return event


def _dumps(event: Event, **_: Any) -> str:
    """JSON of a record; what JSON does not know is shown by its ``repr``."""
    try:
        return dumps(event).decode()
    except TypeError:  # an integer over 64 bits, text that is not UTF-8, a key of another type
        return json.dumps({str(name): value for name, value in event.items()}, default=repr, skipkeys=True)
