"""``perdure subscriptions``: who is told what, by webhook, e-mail or Slack."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, Limit, Url
from perdure.cli.output import Output, fields, table

app = typer.Typer(no_args_is_help=True, help="Be told: subscribe a webhook, an address or a Slack channel.")

SubscriptionArgument = Annotated[str, typer.Argument(metavar="SUBSCRIPTION", help="A subscription id.")]

_COLUMNS = {
    "subscription": "subscription_id",
    "scope": "scope",
    "of": "scope_id",
    "kinds": "kinds",
    "channel": "channel",
    "target": "target",
    "state": "state",
}
_FIELDS = {
    **_COLUMNS,
    "disabled": "disabled_reason",
    "digest": "digest_s",
    "quiet": "quiet",
    "lead": "lead_s",
    "batch items": "batch_items",
    "description": "description",
    "secrets": "secrets",
    "secret": "secret",
    "created": "created_at",
}
_SHOWN_ONCE = "The secret is shown this once; receivers check signatures with it."


@app.command()
def add(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="webhook, email or slack.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A URL, an address, or assigned_to.")],
    *,
    kinds: Annotated[
        list[str],
        typer.Option(
            "--kind",
            "-k",
            help="completed, failed, cancelled, timed_out, paused, approval_wanted, approval_expiring, stuck, "
            "recovered, batch_finished, batch_threshold. Several times for several.",
        ),
    ],
    thread: Annotated[str | None, typer.Option(help="Of this thread.")] = None,
    run: Annotated[str | None, typer.Option(help="Of this run.")] = None,
    assistant: Annotated[str | None, typer.Option(help="Of this assistant or graph.")] = None,
    batch: Annotated[str | None, typer.Option(help="Of this batch.")] = None,
    digest: Annotated[
        float | None, typer.Option(help="Collect events for this many seconds and send them together as one message.")
    ] = None,
    quiet: Annotated[str | None, typer.Option(help="Quiet hours: 22:00-07:00, in the time zone of --timezone.")] = None,
    timezone: Annotated[str, typer.Option(help="IANA name, of the quiet hours.")] = "UTC",
    urgent: Annotated[list[str] | None, typer.Option(help="Kinds that are sent in quiet hours, too.")] = None,
    batch_items: Annotated[
        bool, typer.Option("--batch-items", help="Tell the ends of a batch's items one by one as well.")
    ] = False,
    lead: Annotated[float | None, typer.Option(help="Seconds before a question expires that it is told.")] = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Subscribe; of everything in the tenant unless an option says otherwise."""
    scopes = {"thread": thread, "run": run, "assistant": assistant, "batch": batch}
    named = {name: value for name, value in scopes.items() if value is not None}
    if len(named) > 1:
        raise typer.BadParameter("name one of --thread, --run, --assistant and --batch")
    scope, scope_id = next(iter(named.items()), ("tenant", None))
    body: dict[str, Any] = {
        "scope": scope,
        "scope_id": scope_id,
        "kinds": kinds,
        "channel": channel,
        "target": target,
        "digest_s": digest,
        "quiet": _quiet(quiet, timezone, urgent or []),
        "lead_s": lead,
        "batch_items": batch_items or None,
        "description": description,
    }
    output = Output(as_json)
    with Gateway(url) as gateway:
        made = gateway.post("subscriptions", body={name: value for name, value in body.items() if value is not None})
    if made.get("secret"):
        output.note(_SHOWN_ONCE)
    output.result(made, fields(made, _FIELDS))


@app.command("list")
def list_subscriptions(
    limit: Limit = 100,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the subscriptions, oldest first."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = gateway.get("subscriptions", limit=limit)
    if found["cursor"]:
        output.note(f"There are more than {limit}; see more with --limit.")
    output.result(found["items"], table(found["items"], _COLUMNS, "no subscription"))


@app.command()
def show(subscription: SubscriptionArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one subscription."""
    with Gateway(url) as gateway:
        found = gateway.get("subscriptions", subscription)
    Output(as_json).result(found, fields(found, _FIELDS))


@app.command()
def pause(subscription: SubscriptionArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Take nothing new until it is resumed."""
    _patch(subscription, {"paused": True}, url, as_json)


@app.command()
def resume(subscription: SubscriptionArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Go on, also after a receiver that said it was gone (410)."""
    _patch(subscription, {"paused": False}, url, as_json)


@app.command()
def remove(subscription: SubscriptionArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Remove a subscription; what was not delivered yet is dropped."""
    with Gateway(url) as gateway:
        gateway.delete("subscriptions", subscription)
    Output(as_json).result({"removed": subscription}, f"removed {subscription}")


@app.command()
def rotate(
    subscription: SubscriptionArgument,
    grace: Annotated[float, typer.Option(help="Seconds that the old secret signs beside the new one.")] = 86400.0,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Give a webhook a new secret."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = gateway.post("subscriptions", subscription, "rotate-secret", body={"grace_s": grace})
    output.note(_SHOWN_ONCE)
    output.result(found, fields(found, _FIELDS))


@app.command("test")
def send_test(subscription: SubscriptionArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Send a test; `perdure deliveries show` tells what became of it."""
    with Gateway(url) as gateway:
        sent = gateway.post("subscriptions", subscription, "test")
    Output(as_json).result(sent, f"sent as {sent['delivery_id']}: perdure deliveries show {sent['delivery_id']}")


def _patch(subscription: str, body: dict[str, Any], url: str, as_json: bool) -> None:
    with Gateway(url) as gateway:
        found = gateway.patch("subscriptions", subscription, body=body)
    Output(as_json).result(found, fields(found, _FIELDS))


def _quiet(text: str | None, timezone: str, urgent: list[str]) -> dict[str, Any] | None:
    if text is None:
        return None
    start, dash, end = text.partition("-")
    if not dash:
        raise typer.BadParameter(f"{text!r} is no span such as 22:00-07:00", param_hint="--quiet")
    return {"timezone": timezone, "start": start.strip(), "end": end.strip(), "urgent": urgent}
