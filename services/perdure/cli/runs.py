"""``perdure runs``, ``perdure resume`` and ``perdure cancel``: start agents, see how they do, wake and stop them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.json import JSON
from rich.text import Text

from perdure.chassis import json
from perdure.cli.client import ACTIVE, Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, Limit, RunArgument, ThreadArgument, ThreadOrRun, Url
from perdure.cli.output import Output, fields, table
from perdure.cli.parsing import json_argument, json_or_text
from perdure.cli.which_run import run_of

app = typer.Typer(no_args_is_help=True, help="Start runs and see how they do.")

Wait = Annotated[bool, typer.Option("--wait", help="Wait until it has ended or waits, and show what came of it.")]
Timeout = Annotated[float | None, typer.Option(min=0, help="With --wait: seconds at most.")]
Metadata = Annotated[str | None, typer.Option(metavar="JSON", help="Metadata of the run.")]

_FIELDS = {
    "run": "run_id",
    "thread": "thread_id",
    "assistant": "assistant_id",
    "status": "perdure_status",
    "created": "created_at",
    "updated": "updated_at",
    "metadata": "metadata",
    "next": "next",
    "interrupts": "interrupts",
    "waits": "waits",
    "continued by": "continued_by",
    "last run": "last_run_id",
    "its status": "last_run_status",
    "error": "error",
}
_COLUMNS = {"run": "run_id", "assistant": "assistant_id", "status": "perdure_status", "created": "created_at"}
_FAILED = frozenset({"error", "timeout", "cancelled"})
_ENDS = frozenset({"__error__", "__interrupt__"})
"""What the gateway adds to the values of a run: it stands beside them here."""


@app.command()
def start(
    *,
    graph: Annotated[str, typer.Argument(help="A graph of langgraph.json.")],
    input_: Annotated[str, typer.Option("--input", "-i", metavar="JSON", help="JSON, @file, or - for stdin.")] = "{}",
    thread: Annotated[str | None, typer.Option("--thread", help="An existing thread; a new one if not given.")] = None,
    metadata: Metadata = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key starts the same run only once.")] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Start a run; it goes on whatever happens to this terminal."""
    body: dict[str, Any] = {"assistant_id": graph, "input": json_argument(input_, "--input")}
    if metadata is not None:
        body["metadata"] = json_argument(metadata, "--metadata")
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
    output = Output(as_json)
    with Gateway(url) as gateway:
        path = ("threads", thread, "runs") if thread else ("runs",)
        run = gateway.post(*path, body=body, headers=headers)
        _report(gateway, output, run, wait=wait, timeout_s=timeout)


@app.command("list")
def list_runs(
    thread: ThreadArgument,
    status: Annotated[str | None, typer.Option(help="Only runs in this status.")] = None,
    limit: Limit = 20,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the runs of a thread, newest first."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = gateway.get("threads", thread, "runs", limit=limit, status=status)
    output.result(found, table(found, _COLUMNS, "no run"))


@app.command()
def show(thread: ThreadOrRun, run: RunArgument = None, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one run; of a thread, its newest."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = run_of(gateway, thread, run)
    output.result(found, fields(found, _FIELDS))


def resume(
    *,
    thread: ThreadArgument,
    value: Annotated[str, typer.Argument(help="The answer: JSON, plain text, @file, or - for stdin.")],
    graph: Annotated[str | None, typer.Option(help="The graph; by default the one that the thread ran last.")] = None,
    interrupt: Annotated[str | None, typer.Option(help="Which interrupt, when several wait: its id.")] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Answer the interrupt at which a thread waits."""
    answer = json_or_text(value, "VALUE")
    output = Output(as_json)
    with Gateway(url) as gateway:
        body = {
            "assistant_id": graph or run_of(gateway, thread)["assistant_id"],
            "command": {"resume": {interrupt: answer} if interrupt else answer},
        }
        run = gateway.post("threads", thread, "runs", body=body)
        _report(gateway, output, run, wait=wait, timeout_s=timeout)


def retry(
    *,
    thread: ThreadOrRun,
    run: RunArgument = None,
    wait: Wait = False,
    timeout: Timeout = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that failed or was parked, from its last checkpoint, once its cause is mended."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        failed = run_of(gateway, thread, run, _FAILED)
        again = gateway.post("threads", failed["thread_id"], "runs", failed["run_id"], "retry")
        _report(gateway, output, again, wait=wait, timeout_s=timeout)


def cancel(thread: ThreadOrRun, run: RunArgument = None, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Stop a run; what it has checkpointed stays."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        active = run_of(gateway, thread, run, ACTIVE)
        path = ("threads", active["thread_id"], "runs", active["run_id"])
        gateway.post(*path, "cancel")
        found = gateway.get(*path)
    output.result(found, f"cancel requested; run {found['run_id']} is {found['perdure_status']}")


def _outcome(gateway: Gateway, run: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that is not active has left: its values, and where it waits, for what and before which node."""
    values = gateway.get("threads", run["thread_id"], "runs", run["run_id"], "join", timeout=0)
    left = {"values": {name: value for name, value in values.items() if name not in _ENDS}}
    if run["perdure_status"] == "interrupted":
        state = gateway.get("threads", run["thread_id"], "state")
        left |= {"next": state["next"], "interrupts": state["interrupts"], "waits": state["waits"]}
    return left


def _report(gateway: Gateway, output: Output, run: Mapping[str, Any], *, wait: bool, timeout_s: float | None) -> None:
    """Show the run, at its end if asked to wait, with what came of it; exit status 1 when it failed."""
    if wait:
        output.note(f"run {run['run_id']} on thread {run['thread_id']} has started; waiting")
        run = gateway.wait_run(run["thread_id"], run["run_id"], timeout_s)
        run = {**run, **_outcome(gateway, run)}
    values = run.get("values")
    shown: tuple[RenderableType, ...] = (
        (Text("values", style="bold"), JSON(json.dumps(values).decode())) if values else ()
    )
    output.result(run, fields(run, _FIELDS), *shown)
    if run["perdure_status"] in _FAILED:
        raise typer.Exit(1)
