"""``perdure stuck``: who stands still now, or got stuck in a time (UTC)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, Url
from perdure.cli.output import Output
from perdure.cli.parsing import moment


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
    empty = "No agent got stuck then." if since or until else "No agent is stuck."
    output.result(found, *(map(lines_of, found["items"]) if found["items"] else (empty,)))
    if found["cursor"]:
        output.note(f"{len(found['items'])} of {found['total']}: --cursor {found['cursor']}")


def lines_of(item: Mapping[str, Any]) -> Text:
    """A standstill for people: who, where and since when in one line, and below it why, each text once."""
    nodes = ", ".join(item["nodes"])
    where = f"{item['graph']} at {nodes}" if nodes else item["graph"]
    head = f"{item['thread_id']}  {where}  {item['code']} since {_second(item['since'])}"
    if item["recovered_at"]:
        head += f", went on at {_second(item['recovered_at'])}"
    reason = item["reason"]
    error = (item["last_error"] or {}).get("message")
    more = [f"last error: {error}"] if error and error not in reason else []
    return Text("\n".join([head, *(f"    {line}" for text in (reason, *more) for line in text.splitlines())]))


def _second(moment_: str) -> str:
    return moment_[:19].replace("T", " ")
