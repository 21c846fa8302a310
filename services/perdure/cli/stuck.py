"""``perdure stuck``: who stands still now, or got stuck in a time."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, Url
from perdure.cli.output import Output, table
from perdure.cli.parsing import moment

_COLUMNS = {
    "thread": "thread_id",
    "graph": "graph",
    "node": "nodes",
    "code": "code",
    "since": "since",
    "expected by": "expected_by",
    "last error": "last_error.message",
    "reason": "reason",
}


def stuck(
    *,
    node: Annotated[str | None, typer.Option(help="At this node.")] = None,
    graph: Annotated[str | None, typer.Option(help="Of this graph.")] = None,
    thread: Annotated[str | None, typer.Option(help="This thread.")] = None,
    code: Annotated[str | None, typer.Option(help="overdue, unclaimed, wait_overdue or poison.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Got stuck since then: ISO 8601, 90m, 2h, 3d, today or yesterday.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Got stuck before; as --since.")] = None,
    cursor: Annotated[str | None, typer.Option(help="The next page: what --json called `cursor`.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="How many at most.")] = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show who is stuck now; with a time, who got stuck: perdure stuck --node Login --since yesterday --until today."""
    output = Output(as_json)
    params = {
        "node": node,
        "graph": graph,
        "thread_id": thread,
        "code": code,
        "since": moment(since, "--since"),
        "until": moment(until, "--until"),
        "cursor": cursor,
        "limit": limit,
    }
    with Gateway(url) as gateway:
        found = gateway.get("stuck", **params)
    history = {"went on": "recovered_at"} if since or until else {}
    empty = "nobody got stuck then" if history else "nobody is stuck"
    output.result(found, table(found["items"], _COLUMNS | history, empty))
    if found["cursor"]:
        output.note(f"{len(found['stuck'])} of {found['total']}: --cursor {found['cursor']}")
