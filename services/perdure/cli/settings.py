"""``perdure settings``: every environment variable, taken from the settings classes, so that no list can be out of date."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings
from rich.text import Text

from perdure.chassis.environment import holds_secret
from perdure.chassis.settings import ServiceSettings
from perdure.cli.options import DEFAULT_URL, AsJson
from perdure.cli.output import Output, table
from perdure.local.services import available_services
from perdure.local.settings import LocalSettings

SHARED = "all services"
LOCAL = "perdure up, dev and tests"
_CHOSEN = {"cache_dir": "~/.cache/perdure", "instance": "host name and process id"}
"""Defaults that a machine chooses."""

Row = dict[str, Any]


def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="As docs/configuration.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show every environment variable: who reads it, its default and what it means."""
    rows = list(every())
    output = Output(as_json)
    if markdown and not as_json:
        output.result(rows, Text(as_markdown(rows).rstrip("\n")))
        return
    columns = {"variable": "variable", "read by": "read_by", "default": "default", "meaning": "meaning"}
    output.result(rows, table(rows, columns, ""))


def every() -> Iterable[Row]:
    """One row a variable and reader: ``variable``, ``read_by``, ``default`` and ``meaning``."""
    yield {
        "variable": "PERDURE_URL",
        "read_by": "the command line",
        "default": DEFAULT_URL,
        "meaning": "Where the gateway is.",
    }
    yield {
        "variable": "PERDURE_API_KEY",
        "read_by": "the command line",
        "default": None,
        "meaning": "The API key that every command sends. Without it a gateway on this machine gets the key of this folder's "
        "stack, if `perdure up --secure` made one.",
    }
    yield from _rows(SHARED, ServiceSettings, {})
    for name in available_services():
        module = importlib.import_module(f"perdure.{name}.settings")
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, ServiceSettings) and found.__module__ == module.__name__:
                yield from _rows(name.replace("_", "-"), found, ServiceSettings.model_fields)
    yield from _rows(LOCAL, LocalSettings, {})


def as_markdown(rows: Iterable[Row]) -> str:
    """A page with one table a reader."""
    lines = [
        "# Configuration",
        "",
        "Every setting is an environment variable. This page is what `perdure settings --markdown` prints.",
    ]
    reader = None
    for row in rows:
        if row["read_by"] != reader:
            reader = row["read_by"]
            lines += ["", f"## Read by {reader}", "", "| variable | default | meaning |", "|---|---|---|"]
        default = "" if row["default"] is None else f"`{row['default']}`"
        lines.append(f"| `{row['variable']}` | {default} | {row['meaning']} |")
    return "\n".join(lines) + "\n"


def _rows(reader: str, owner: type[BaseSettings], inherited: Mapping[str, FieldInfo]) -> Iterable[Row]:
    for name, field in owner.model_fields.items():
        if name not in inherited:
            yield {
                "variable": f"PERDURE_{name.upper()}",
                "read_by": reader,
                "default": _CHOSEN.get(name, _default(field)),
                "meaning": _meaning(name, field),
            }


def _meaning(name: str, field: FieldInfo) -> str:
    text = " ".join((field.description or "").replace("``", "`").split())
    return f"{text} Or from a file: `PERDURE_{name.upper()}_FILE`." if holds_secret(field.annotation) else text


def _default(field: FieldInfo) -> str | None:
    value = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return None if value is None or value is PydanticUndefined else str(value)
