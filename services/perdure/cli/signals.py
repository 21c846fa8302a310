"""``perdure signal``: tell an agent something; it is kept until the agent waits for it."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, ThreadArgument, Url
from perdure.cli.output import Output
from perdure.cli.parsing import json_argument


def signal(
    *,
    thread: ThreadArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the agent waits for, e.g. reply.")],
    payload: Annotated[
        str, typer.Option("--payload", "-p", metavar="JSON", help="JSON, @file, or - for stdin.")
    ] = "null",
    idempotency_key: Annotated[str | None, typer.Option(help="The same key sends the same signal only once.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Send a signal to a thread; one that comes before its wait is kept for it."""
    output = Output(as_json)
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
    body = {"payload": json_argument(payload, "--payload")}
    with Gateway(url) as gateway:
        sent = gateway.post("threads", thread, "signals", name, body=body, headers=headers)
    became = f"woke {sent['wait_id']}" if sent["delivered"] else "is kept until the thread waits for it"
    output.result(sent, f"signal {sent['signal_id']} {became}")
