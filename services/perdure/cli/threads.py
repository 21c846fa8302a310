"""``perdure threads``: make and see threads."""

from __future__ import annotations

from typing import Annotated

import typer
from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, Limit, ThreadArgument, Url
from perdure.cli.output import Output, fields, table
from perdure.cli.parsing import json_argument

app = typer.Typer(no_args_is_help=True, help="Make and see threads.")

_FIELDS = {
    "thread": "thread_id",
    "status": "status",
    "created": "created_at",
    "updated": "updated_at",
    "metadata": "metadata",
    "interrupts": "interrupts",
    "error": "error",
}
_COLUMNS = {"thread": "thread_id", "status": "status", "updated": "updated_at", "metadata": "metadata"}


@app.command("list")
def list_threads(
    status: Annotated[str | None, typer.Option(help="idle, busy, interrupted or error.")] = None,
    metadata: Annotated[str | None, typer.Option(metavar="JSON", help="Only those with this metadata.")] = None,
    limit: Limit = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the newest threads."""
    output = Output(as_json)
    body = {"limit": limit, "status": status}
    if metadata is not None:
        body["metadata"] = json_argument(metadata, "--metadata")
    with Gateway(url) as gateway:
        found = gateway.post("threads", "search", body={k: v for k, v in body.items() if v is not None})
    output.result(found, table(found, _COLUMNS, "no thread"))


@app.command()
def show(thread: ThreadArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one thread."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = gateway.get("threads", thread)
    output.result(found, fields(found, _FIELDS))


@app.command()
def create(
    thread: Annotated[str | None, typer.Option("--thread", help="Its id; made by the gateway if not given.")] = None,
    metadata: Annotated[str, typer.Option(metavar="JSON", help="Metadata: JSON, @file or - for stdin.")] = "{}",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make a thread and print its id."""
    output = Output(as_json)
    body = {"metadata": json_argument(metadata, "--metadata")} | ({"thread_id": thread} if thread else {})
    with Gateway(url) as gateway:
        made = gateway.post("threads", body=body)
    output.result(made, made["thread_id"])
