"""What a request is about, as ``authorize`` handlers get it (``langgraph_sdk.auth.types``), and back. Pure.

Contract: ids are texts, as clients know them. A handler may change the fields of the body that the row's model has, and for
``create_run`` those of ``kwargs``; a change of an id is without effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel

from perdure.gateway.auth.governed import Ask
from perdure.gateway.http.thread_ids import QUALIFIER

Document = dict[str, Any]

KWARGS: Final = (
    "input",
    "command",
    "config",
    "context",
    "interrupt_before",
    "interrupt_after",
    "checkpoint",
    "checkpoint_id",
    "webhook",
    "stream_mode",
)
"""What a run is started with: ``kwargs`` of ``create_run``."""
IDS: Final = frozenset(
    {"thread_id", "thread_ids", "run_id", "run_ids", "cron_id", "assistant_id", "ids", "kwargs", "payload"}
)
"""What handlers cannot change, or not under this name."""


def value_of(request: web.Request, ask: Ask, body: Any) -> Document:
    """The value of a question; ``body``: of a request without one ``{}``."""
    named = {name: value for name, value in request.match_info.items() if name.endswith("_id")}
    if "thread_id" in named:
        named["thread_id"] = named["thread_id"].removeprefix(request[QUALIFIER])
    if "schedule_id" in named:
        named["cron_id"] = named.pop("schedule_id")
    given = dict(body) if isinstance(body, dict) else {}
    asked = {name: request.query[name] for name in ("thread_id", "status", "action") if name in request.query}
    value: Document = {**asked, **given, **named}
    if ask.action == "create_run":
        value["kwargs"] = {name: value.pop(name) for name in KWARGS if name in value}
    elif ask.resource == "crons" and ask.action in ("create", "update"):
        value["payload"] = {name: value[name] for name in ("assistant_id", *KWARGS) if name in value}
    if ask.makes or ask.action == "search":
        value["metadata"] = dict(value.get("metadata") or {})
    return value


def changed_body(
    model: type[BaseModel] | tuple[type[BaseModel]], ask: Ask, body: Any, changed: Mapping[str, Any]
) -> Any:
    """A body with what a handler changed of the value."""
    if not isinstance(body, dict):
        return body
    fields = (model[0] if isinstance(model, tuple) else model).model_fields
    kwargs = changed.get("kwargs") if ask.action == "create_run" else None
    named = {name: value for name, value in changed.items() if name not in IDS}
    if isinstance(kwargs, Mapping):
        named |= {name: kwargs.get(name) for name in KWARGS if name in kwargs or name in body}
    return {**body, **{name: value for name, value in named.items() if name in fields}}
