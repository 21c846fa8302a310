"""``perdure batches``: one graph over many inputs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from perdure.chassis import json
from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, Limit, Url
from perdure.cli.output import Output, fields, table
from perdure.cli.parsing import json_argument

app = typer.Typer(no_args_is_help=True, help="Run a graph over many inputs: upload, watch, pause, redrive, download.")

BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="A batch id.")]
Statuses = Annotated[
    list[str] | None,
    typer.Option(
        "--status", help="waiting, started, interrupted, succeeded, failed, cancelled. Several times for several."
    ),
]

READ_BYTES = 256 * 1024
ENDED = ("completed", "cancelled")
WATCH_S = 1.0

_COLUMNS = {
    "batch": "batch_id",
    "graph": "graph_id",
    "status": "status",
    "total": "total",
    "ended": "ended",
    "failed": "counts.failed",
    "created": "created_at",
}
_FIELDS = {
    "batch": "batch_id",
    "graph": "graph_id",
    "status": "status",
    "paused": "pause_reason",
    "total": "total",
    "waiting": "counts.waiting",
    "started": "counts.started",
    "interrupted": "counts.interrupted",
    "succeeded": "counts.succeeded",
    "failed": "counts.failed",
    "cancelled": "counts.cancelled",
    "per second": "rate_per_s",
    "seconds left": "eta_s",
    "concurrency": "concurrency",
    "attempts": "max_attempts",
    "threshold": "failure_threshold",
    "metadata": "metadata",
    "created": "created_at",
    "began": "started_at",
    "ended": "ended_at",
}
_ITEMS = {
    "item": "number",
    "ref": "ref",
    "status": "status",
    "attempts": "attempts",
    "thread": "thread_id",
    "error": "error.message",
}


@app.command()
def start(
    file: Annotated[str, typer.Argument(metavar="FILE", help="NDJSON, one item a line, also gzip; - for stdin.")],
    *,
    graph: Annotated[str, typer.Option("--graph", "-g", help="A graph id or an assistant id.")],
    concurrency: Annotated[int | None, typer.Option(min=1, help="Items that run at once; 100.")] = None,
    max_attempts: Annotated[int | None, typer.Option(min=1, help="How often a failed item is tried; 1.")] = None,
    failure_threshold: Annotated[
        float | None,
        typer.Option(min=0, help="Failures that are allowed: a number or, below 1, a share. More pause it."),
    ] = None,
    metadata: Annotated[str | None, typer.Option(metavar="JSON", help="JSON or @file.")] = None,
    config: Annotated[str | None, typer.Option(metavar="JSON", help="JSON or @file.")] = None,
    context: Annotated[str | None, typer.Option(metavar="JSON", help="JSON or @file.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Wait for a resume.")] = False,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key makes the same batch only once.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show how it goes on until it is over.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Upload items and run the graph over them; nothing is registered when a line is wrong."""
    params: dict[str, Any] = {
        "assistant_id": graph,
        "concurrency": concurrency,
        "max_attempts": max_attempts,
        "failure_threshold": failure_threshold,
        "paused": "true" if paused else None,
    }
    for name, text in {"metadata": metadata, "config": config, "context": context}.items():
        if text is not None:
            params[name] = json.dumps_strict(json_argument(text, f"--{name}")).decode()
    with Gateway(url) as gateway:
        batch = gateway.upload("batches", content=_bytes_of(file), params=params, idempotency_key=idempotency_key)
        _show(gateway, batch, as_json, watch=watch)


@app.command("list")
def list_batches(
    status: Annotated[
        str | None, typer.Option(help="pending, running, paused, cancelling, completed, cancelled.")
    ] = None,
    limit: Limit = 50,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show batches, newest first."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = gateway.get("batches", status=status, limit=limit)
    if found["cursor"]:
        output.note(f"There are more than {limit}; see more with --limit.")
    output.result(found["items"], table(found["items"], _COLUMNS, "no batch"))


@app.command()
def show(
    batch: BatchArgument,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Until it is over or paused.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show one batch: totals by status, rate, time left."""
    with Gateway(url) as gateway:
        _show(gateway, gateway.get("batches", batch), as_json, watch=watch)


@app.command()
def items(
    batch: BatchArgument,
    status: Statuses = None,
    after: Annotated[int, typer.Option(min=0, help="Only items with a higher number.")] = 0,
    limit: Limit = 100,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show items of a batch in their order."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = gateway.get("batches", batch, "items", status=",".join(status or []) or None, cursor=after, limit=limit)
    if found["cursor"]:
        output.note(f"There are more; see them with --after {found['cursor']}.")
    output.result(found["items"], table(found["items"], _ITEMS, "no item"))


@app.command()
def results(
    batch: BatchArgument,
    file: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to; stdout if not given.")] = "-",
    status: Statuses = None,
    after: Annotated[int, typer.Option(min=0, help="Only items with a higher number.")] = 0,
    values: Annotated[bool, typer.Option(help="Whether to read the values.")] = True,
    url: Url = DEFAULT_URL,
) -> None:
    """Download results as NDJSON, also while it runs: those that have ended, unless --status names others."""
    params = {
        "status": ",".join(status or []) or None,
        "after": after or None,
        "values": None if values else "false",
    }
    with Gateway(url) as gateway:
        parts = gateway.download("batches", batch, "results", params=params)
        if file == "-":
            for part in parts:
                sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
            return
        try:
            with Path(file).open("wb") as target:
                target.writelines(parts)
        except OSError as error:
            raise typer.BadParameter(f"cannot write {file}: {error.strerror}", param_hint="--output") from error


@app.command()
def pause(batch: BatchArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Start no further item; what runs goes on."""
    _ask(batch, "pause", url, as_json)


@app.command()
def resume(batch: BatchArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Go on; the failure threshold counts anew."""
    _ask(batch, "resume", url, as_json)


@app.command()
def cancel(batch: BatchArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Cancel everything that has not ended."""
    _ask(batch, "cancel", url, as_json)


@app.command()
def redrive(
    batch: BatchArgument,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Also those that were cancelled.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Start failed items again, from their last checkpoints."""
    _ask(batch, "redrive", url, as_json, {"statuses": ["failed", "cancelled"] if cancelled else ["failed"]})


def _ask(batch: str, what: str, url: str, as_json: bool, body: Any = None) -> None:
    with Gateway(url) as gateway:
        _show(gateway, gateway.post("batches", batch, what, body=body), as_json, watch=False)


def _show(gateway: Gateway, batch: dict[str, Any], as_json: bool, *, watch: bool) -> None:
    output = Output(as_json)
    while watch and batch["status"] not in (*ENDED, "paused"):
        output.note(_line(batch))
        time.sleep(WATCH_S)
        batch = gateway.get("batches", batch["batch_id"])
    output.result(batch, fields(batch, _FIELDS))


def _line(batch: dict[str, Any]) -> str:
    """How it stands, in one line."""
    counts = ", ".join(f"{number} {name}" for name, number in batch["counts"].items() if number)
    rate = f"; {batch['rate_per_s']:g}/s" if batch["rate_per_s"] else ""
    left = f", {batch['eta_s']:.0f} s left" if batch["eta_s"] is not None else ""
    return f"{batch['status']}: {counts}{rate}{left}"


def _bytes_of(file: str) -> Iterator[bytes]:
    """A file or stdin in pieces."""
    try:
        source = sys.stdin.buffer if file == "-" else Path(file).open("rb")  # noqa: SIM115 (closed when it is read)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="FILE") from error

    def pieces() -> Iterator[bytes]:
        with source:
            while piece := source.read(READ_BYTES):
                yield piece

    return pieces()
