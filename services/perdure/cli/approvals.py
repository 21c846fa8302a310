"""``perdure approvals``: what agents ask people, and answering it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, Url
from perdure.cli.output import Output, fields, table
from perdure.cli.parsing import json_argument

app = typer.Typer(no_args_is_help=True, help="See what agents ask, and answer.")

ApprovalArgument = Annotated[str, typer.Argument(metavar="ID", help="An approval id of `perdure approvals list`.")]

_COLUMNS = {
    "approval": "approval_id",
    "status": "status",
    "question": "question",
    "asked": "assigned_to",
    "since": "opened_at",
    "expires": "expires_at",
}
_FIELDS = {
    "approval": "approval_id",
    "status": "status",
    "question": "question",
    "details": "details",
    "action": "action",
    "digest": "action_digest",
    "answer": "answer_schema",
    "thread": "thread_id",
    "run": "run_id",
    "graph": "graph_id",
    "nodes": "nodes",
    "asked": "assigned_to",
    "next": "escalate_to",
    "escalations": "escalations",
    "since": "opened_at",
    "expires": "expires_at",
    "outcome": "outcome",
    "waking run": "waking_run_id",
    "metadata": "metadata",
}


@app.command("list")
def list_approvals(
    *,
    status: Annotated[str, typer.Option(help="open, answered, expired, closed or all.")] = "open",
    assigned_to: Annotated[str | None, typer.Option(help="Only what this person or group is asked now.")] = None,
    thread: Annotated[str | None, typer.Option(help="Only of this thread.")] = None,
    graph: Annotated[str | None, typer.Option(help="Only of this graph.")] = None,
    after: Annotated[str | None, typer.Option(help="The next page: what --json called `cursor`.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="How many at most.")] = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show what agents ask, oldest first."""
    output = Output(as_json)
    params: dict[str, Any] = {
        "status": status,
        "assigned_to": assigned_to,
        "thread_id": thread,
        "graph": graph,
        "after": after,
        "limit": limit,
    }
    with Gateway(url) as gateway:
        found = gateway.get("approvals", **params)
    output.result(found, table(found["approvals"], _COLUMNS, "No open questions."))
    if found["cursor"]:
        output.note(f"there are more: --after {found['cursor']}")


@app.command()
def show(approval: ApprovalArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one question, and how it ended."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = gateway.get("approvals", approval)
    output.result(found, fields(found, _FIELDS))


@app.command()
def answer(
    *,
    approval: ApprovalArgument,
    answer_: Annotated[str, typer.Option("--answer", "-a", metavar="JSON", help="JSON, @file, or - for stdin.")],
    by: Annotated[str, typer.Option(envvar="USER", help="Who answers.")],
    action_digest: Annotated[
        str | None, typer.Option(help="The digest that you saw: refused if the question is about another action.")
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Answer a question; its agent goes on."""
    output = Output(as_json)
    body: dict[str, Any] = {"answer": json_argument(answer_, "--answer"), "by": by}
    if action_digest is not None:
        body["action_digest"] = action_digest
    with Gateway(url) as gateway:
        found = gateway.post("approvals", approval, body=body)
    output.result(found, f"answered as {by}; run {found['waking_run_id']} goes on with thread {found['thread_id']}")
