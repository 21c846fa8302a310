"""``perdure deliveries``: notices and what became of them: see them, send dead ones again."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, Limit, Url
from perdure.cli.output import Output, fields, indented, table

app = typer.Typer(no_args_is_help=True, help="Notices: see what became of them, send dead ones again.")

DeliveryArgument = Annotated[str, typer.Argument(metavar="DELIVERY", help="A delivery id: msg_...")]
ThreadOption = Annotated[str | None, typer.Option("--thread", help="About this thread.")]
SubscriptionOption = Annotated[str | None, typer.Option("--subscription", help="Of this subscription.")]
KindOption = Annotated[str | None, typer.Option("--kind", help="completed, failed, approval_wanted, ...")]
ChannelOption = Annotated[str | None, typer.Option("--channel", help="webhook, email or slack.")]
By = Annotated[str | None, typer.Option("--by", envvar="USER", help="Who decides; kept with the delivery.")]

_COLUMNS = {
    "delivery": "delivery_id",
    "state": "state",
    "kind": "kind",
    "channel": "channel",
    "target": "target",
    "thread": "thread_id",
    "tried": "tried",
    "created": "created_at",
    "reason": "reason",
}
_FIELDS = {
    **{name: key for name, key in _COLUMNS.items() if name not in ("created", "reason")},
    "reason": "reason",
    "subscription": "subscription_id",
    "run": "run_id",
    "event": "event_id",
    "happened": "occurred_at",
    "created": "created_at",
    "next": "due_at",
    "given up": "give_up_at",
    "ended": "ended_at",
    "told by": "digest",
    "redrives": "redrives",
    "redriven": "redriven_at",
    "redriven by": "redriven_by",
    "removed": "expires_at",
}
_ATTEMPTS = {
    "attempt": "number",
    "at": "at",
    "outcome": "outcome",
    "status": "status",
    "ms": "latency_ms",
    "reason": "reason",
}


@app.command("list")
def list_deliveries(
    *,
    state: Annotated[str, typer.Option(help="pending, gathered, delivered, dead, dropped or all.")] = "all",
    thread: ThreadOption = None,
    subscription: SubscriptionOption = None,
    kind: KindOption = None,
    channel: ChannelOption = None,
    limit: Limit = 50,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show deliveries, newest first."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = gateway.get(
            "deliveries",
            state=None if state == "all" else state,
            thread_id=thread,
            subscription_id=subscription,
            kind=kind,
            channel=channel,
            limit=limit,
        )
    if found["cursor"]:
        output.note(f"There are more than {limit}; see more with --limit.")
    output.result(found["items"], table(found["items"], _COLUMNS, "no delivery"))


@app.command()
def show(delivery: DeliveryArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one delivery, what it tells and every attempt."""
    with Gateway(url) as gateway:
        found = gateway.get("deliveries", delivery)
    Output(as_json).result(
        found,
        fields(found, _FIELDS),
        table(found["attempts"], _ATTEMPTS, "not tried yet"),
        Text("what is told", style="bold"),
        Text(indented(found["data"])),
    )


@app.command()
def redrive(
    deliveries: Annotated[list[str] | None, typer.Argument(metavar="[DELIVERY]...", help="Ids: msg_...")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All dead ones that fit the options, the oldest first.")] = False,
    thread: ThreadOption = None,
    subscription: SubscriptionOption = None,
    kind: KindOption = None,
    channel: ChannelOption = None,
    limit: Limit = 100,
    force: Annotated[bool, typer.Option("--force", help="Also those that were delivered or dropped.")] = False,
    by: By = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Send dead notices again, under the same message ids; do it after what refused them is mended."""
    if bool(deliveries) is every:
        raise typer.BadParameter("name deliveries, or choose them with --all and options", param_hint="DELIVERY")
    output = Output(as_json)
    decision: dict[str, Any] = {"by": by} if by else {}
    with Gateway(url) as gateway:
        if deliveries:
            params = {"force": "true"} if force else {}
            done = [gateway.post("deliveries", one, "redrive", body=decision, params=params) for one in deliveries]
            output.result(done, table(done, _COLUMNS, ""))
            return
        wanted = {
            "thread_id": thread,
            "subscription_id": subscription,
            "kind": kind,
            "channel": channel,
            "limit": limit,
        }
        body = {name: value for name, value in wanted.items() if value is not None} | decision
        found = gateway.post("deliveries", "redrive", body=body)
    lines = [f"{len(found['redriven'])} redriven"]
    lines += ["More are dead that fit: do it again, or raise --limit."] if found["more"] else []
    output.result(found, "\n".join(lines))
