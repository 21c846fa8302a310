"""``perdure schedules``: runs by the clock."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, Limit, Url
from perdure.cli.output import Output, fields, table
from perdure.cli.parsing import json_argument, moment

app = typer.Typer(no_args_is_help=True, help="Start runs by the clock: make, see, pause, resume and fire schedules.")

ScheduleArgument = Annotated[str, typer.Argument(metavar="SCHEDULE", help="A schedule id.")]
Overlap = Annotated[
    str | None,
    typer.Option(help="When the run before is not finished: skip, queue, cancel_other, rollback_other or allow."),
]

_COLUMNS = {
    "schedule": "schedule_id",
    "graph": "graph_id",
    "cron": "cron",
    "time zone": "timezone",
    "state": "state",
    "next": "next_at",
    "last": "last_fired_at",
    "fired": "fired",
}
_FIELDS = {
    **{name: key for name, key in _COLUMNS.items() if name != "last"},
    "following": "following",
    "ends": "end_at",
    "overlap": "overlap",
    "catch up": "catch_up_s",
    "thread": "thread_id",
    "starts with": "payload",
    "metadata": "metadata",
    "last fired": "last_fired_at",
    "last run": "last_run_id",
    "last thread": "last_thread_id",
    "skipped": "skipped",
    "missed": "missed",
    "being made up": "making_up",
    "created": "created_at",
}
_FIRINGS = {"at": "at", "result": "result", "run": "run_id", "thread": "thread_id"}


@app.command("list")
def list_schedules(
    thread: Annotated[str | None, typer.Option(help="Of this thread.")] = None,
    limit: Limit = 100,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the schedules, oldest first."""
    with Gateway(url) as gateway:
        found = gateway.get("schedules", thread_id=thread, limit=limit)
    Output(as_json).result(found, table(found, _COLUMNS, "no schedule"))


@app.command()
def show(schedule: ScheduleArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one schedule and its next fire times."""
    with Gateway(url) as gateway:
        found = gateway.get("schedules", schedule)
    _show(found, as_json)


@app.command()
def create(
    graph: Annotated[str, typer.Argument(metavar="GRAPH", help="A graph id or an assistant id.")],
    cron: Annotated[str, typer.Argument(metavar="CRON", help="For example '0 9 * * MON-FRI', or @daily.")],
    *,
    timezone: Annotated[str, typer.Option(help="IANA name: Europe/Berlin.")] = "UTC",
    input_: Annotated[str | None, typer.Option("--input", metavar="JSON", help="JSON, @file or - for stdin.")] = None,
    metadata: Annotated[str, typer.Option(metavar="JSON", help="JSON, @file or - for stdin.")] = "{}",
    thread: Annotated[str | None, typer.Option(help="Where the runs go; without it, a new thread for each.")] = None,
    overlap: Overlap = None,
    catch_up: Annotated[float, typer.Option(help="Seconds; what was missed by more is not made up.")] = 3600.0,
    ends: Annotated[str | None, typer.Option(help="Nothing fires after it: ISO 8601.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Fire nothing until it is resumed.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make a schedule."""
    body: dict[str, Any] = {
        "assistant_id": graph,
        "cron": cron,
        "timezone": timezone,
        "input": json_argument(input_, "--input") if input_ is not None else None,
        "metadata": json_argument(metadata, "--metadata"),
        "thread_id": thread,
        "overlap": overlap,
        "catch_up_s": catch_up,
        "end_at": moment(ends, "--ends"),
        "paused": paused,
    }
    with Gateway(url) as gateway:
        made = gateway.post("schedules", body={name: value for name, value in body.items() if value is not None})
    _show(made, as_json)


@app.command()
def pause(schedule: ScheduleArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Fire no more until it is resumed."""
    with Gateway(url) as gateway:
        found = gateway.post("schedules", schedule, "pause")
    _show(found, as_json)


@app.command()
def resume(schedule: ScheduleArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Go on with the next fire time; what was missed in the pause is not made up (see backfill)."""
    with Gateway(url) as gateway:
        found = gateway.post("schedules", schedule, "resume")
    _show(found, as_json)


@app.command()
def delete(schedule: ScheduleArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Remove a schedule. Runs that it started go on."""
    with Gateway(url) as gateway:
        gateway.delete("schedules", schedule)
    Output(as_json).result({"deleted": schedule}, f"deleted {schedule}")


@app.command()
def trigger(
    schedule: ScheduleArgument,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same one fires once.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Fire a schedule now."""
    with Gateway(url) as gateway:
        fired = gateway.post("schedules", schedule, "trigger", headers={"Idempotency-Key": key} if key else None)
    Output(as_json).result(fired, fields(fired, _FIRINGS))


@app.command()
def backfill(
    schedule: ScheduleArgument,
    start: Annotated[str, typer.Argument(help="ISO 8601, 90m, 2h, 3d, today or yesterday.")],
    end: Annotated[str, typer.Argument(help="The same; now by default.")] = "now",
    *,
    overlap: Overlap = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Fire the times of a past period that were not fired."""
    body = {"start": moment(start, "START"), "end": moment(end, "END"), "overlap": overlap}
    with Gateway(url) as gateway:
        filled = gateway.post("schedules", schedule, "backfill", body=body)
    Output(as_json).result(filled, table(filled["firings"], _FIRINGS, "no fire time in this period"))


def _show(found: dict[str, Any], as_json: bool) -> None:
    Output(as_json).result(found, fields(found, _FIELDS))
