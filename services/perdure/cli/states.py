"""``perdure state | history | search``: what an agent knows, knew, and where it was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from typing import Annotated, Any

import typer
from rich.json import JSON

from perdure.chassis import json
from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, Limit, ThreadArgument, Url
from perdure.cli.output import Output, fields, table
from perdure.cli.parsing import moment

_STATE_FIELDS = {
    "checkpoint": "checkpoint.checkpoint_id",
    "created": "created_at",
    "step": "metadata.step",
    "next": "next",
    "interrupts": "interrupts",
    "waits": "waits",
}
_HISTORY_COLUMNS = {
    "checkpoint": "checkpoint.checkpoint_id",
    "step": "metadata.step",
    "source": "metadata.source",
    "next": "next",
    "created": "created_at",
}
_SEARCH_COLUMNS = {
    "thread": "thread_id",
    "graph": "graph",
    "step": "step",
    "status": "status",
    "nodes": "nodes",
    "next": "next",
    "when": "occurred_at",
}
_MARK = re.compile("</?em>")
MATCHED = 200
"""Characters of what matched that are shown."""


def state(
    thread: ThreadArgument,
    checkpoint: Annotated[str | None, typer.Option(help="A past state: a checkpoint id of `perdure history`.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the state of a thread: its values, what runs next, what it waits for."""
    output = Output(as_json)
    path = ("threads", thread, "state") + ((checkpoint,) if checkpoint else ())
    with Gateway(url) as gateway:
        found = gateway.get(*path)
    values = JSON(json.dumps(found.get("values")).decode())
    output.result(found, fields(found, _STATE_FIELDS), values)


def history(
    thread: ThreadArgument,
    before: Annotated[str | None, typer.Option(help="Only checkpoints older than this one.")] = None,
    limit: Limit = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the past states of a thread, newest first."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = gateway.get("threads", thread, "history", limit=limit, before=before)
    output.result(found, table(found, _HISTORY_COLUMNS, "no state is stored for this thread"))


def search(
    *,
    text: Annotated[
        str | None,
        typer.Argument(
            help="A query, e.g. 'node:Login status:stuck \"connection reset\"'; all states if none is given."
        ),
    ] = None,
    node: Annotated[str | None, typer.Option(help="At this node: it ran, or runs next.")] = None,
    status: Annotated[str | None, typer.Option(help="In this status, e.g. stuck, interrupted or error.")] = None,
    graph: Annotated[str | None, typer.Option(help="Of this graph.")] = None,
    thread: Annotated[str | None, typer.Option(help="Of this thread.")] = None,
    since: Annotated[str | None, typer.Option(help="ISO 8601, 90m, 2h, 3d, today or yesterday.")] = None,
    until: Annotated[str | None, typer.Option(help="As --since.")] = None,
    expected_before: Annotated[str | None, typer.Option(help="Should have gone on before; as --since.")] = None,
    run: Annotated[str | None, typer.Option(help="Of this run.")] = None,
    by: Annotated[str | None, typer.Option(help="Count by node, graph, status or day.")] = None,
    min_seq: Annotated[str | None, typer.Option(help="THREAD:SEQ: wait until that state is searchable.")] = None,
    cursor: Annotated[str | None, typer.Option(help="The next page: what --json called `cursor`.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="How many at most.")] = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Find past states of all threads: perdure search --node Login --status error --since yesterday --until today."""
    output = Output(as_json)
    params: dict[str, Any] = {
        "q": text,
        "node": node,
        "status": status,
        "graph": graph,
        "thread_id": thread,
        "run_id": run,
        "by": by,
        "min_seq": min_seq,
        "cursor": cursor,
        "since": moment(since, "--since"),
        "until": moment(until, "--until"),
        "expected_before": moment(expected_before, "--expected-before"),
        "limit": limit,
    }
    with Gateway(url) as gateway:
        found = gateway.get("search", **params)
    if by is not None:
        output.result(found, table(found["groups"], {by: "key", "states": "count"}, "nothing found"))
        return
    reasons = {"reason": "stuck.reason"} if any(item.get("stuck") for item in found["items"]) else {}
    rows = [item | {"matched": matched(item)} for item in found["items"]]
    texts = {"matched": "matched"} if any(row["matched"] for row in rows) else {}
    output.result(found, table(rows, _SEARCH_COLUMNS | reasons | texts, "nothing found"))
    if found["total"] > len(found["items"]):
        output.note(f"{len(found['items'])} of {found['total']}; --limit shows more")


def matched(item: Mapping[str, Any]) -> str:
    """What a search found in a state: the highlights, which are HTML, as one line of plain text."""
    parts = []
    for name, texts in item.get("highlights", {}).items():
        found = " ... ".join(" ".join(unescape(_MARK.sub("", text)).split()) for text in texts)
        parts.append(found if name == "text" else f"{name}: {found}")
    return "; ".join(parts)[:MATCHED]
