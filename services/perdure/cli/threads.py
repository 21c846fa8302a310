"""``perdure threads``: make and see threads."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, ThreadArgument, Url
from perdure.cli.output import Output, fields, table
from perdure.cli.parsing import json_argument, moment

app = typer.Typer(no_args_is_help=True, help="Make and see threads.")

_FIELDS = {
    "thread": "thread_id",
    "status": "status",
    "created": "created_at",
    "updated": "updated_at",
    "metadata": "metadata",
    "interrupts": "interrupts",
    "waits": "waits",
    "error": "error",
}
_COLUMNS = {
    "thread": "thread_id",
    "graph": "graph",
    "status": "status",
    "step": "step",
    "nodes": "nodes",
    "next": "next",
    "changed": "occurred_at",
}


@app.command("list")
def list_threads(
    *,
    status: Annotated[str | None, typer.Option(help="running, interrupted, success, error, ...")] = None,
    graph: Annotated[str | None, typer.Option(help="Of this graph.")] = None,
    node: Annotated[str | None, typer.Option(help="At this node.")] = None,
    since: Annotated[str | None, typer.Option(help="Changed since: ISO 8601, 90m, 2h, 3d, today or yesterday.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="How many at most.")] = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the threads that changed last, as the search index has them (a second or two behind)."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = gateway.get(
            "search",
            scope="threads",
            status=status,
            graph=graph,
            node=node,
            since=moment(since, "--since"),
            limit=limit,
        )
    output.result(found["items"], table(found["items"], _COLUMNS, "no thread"))


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
