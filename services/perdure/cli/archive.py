"""``perdure archive``: retention by hand, legal holds, threads back from the archive.

``run``, ``verify`` and ``purge`` work on the database and the archive store themselves, with the settings of the scheduler; the
others ask the gateway and import nothing of what the first three need.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.client import Gateway
from perdure.cli.errors import CommandError, ProblemError
from perdure.cli.options import DEFAULT_URL, AsJson, ThreadArgument, Url
from perdure.cli.output import Output, table
from perdure.local.stack import Stack

if TYPE_CHECKING:
    from perdure.scheduler.settings import SchedulerSettings

app = typer.Typer(no_args_is_help=True, help="Retention: archive, verify, restore and purge threads; legal holds.")

By = Annotated[str, typer.Option("--by", envvar="USER", help="Who says so.")]

_COLUMNS = {"thread": "thread_id", "tenant": "tenant", "due": "due_at", "rule": "rule", "result": "result"}
ARCHIVED = "urn:perdure:problem:thread-archived"
POLL_S = 0.2


@app.command()
def run(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be archived and change nothing.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="How many threads at most; what is kept does not count.")
    ] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Archive what is due now, without waiting for the scheduler."""
    from perdure.cli import archive_work

    found = asyncio.run(archive_work.run(_settings(), limit=limit, dry_run=dry_run))
    _show(Output(as_json), found, "nothing is due", dry_run=dry_run)
    _require_done(found, "some threads could not be archived; they are as they were, or are gone on with later")


@app.command()
def verify(
    threads: Annotated[
        list[str] | None, typer.Argument(metavar="[THREAD]...", help="Thread ids; all archived threads if none.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read archive objects and compare them with what was written."""
    from perdure.cli import archive_work

    found = asyncio.run(archive_work.verify(_settings(), threads or []))
    damaged = [row for row in found if row["result"] != "whole"]
    columns = {"thread": "thread_id", "object": "object", "bytes": "bytes", "result": "result"}
    shown = table(damaged, columns, f"all {len(found)} archived threads are whole" if found else "nothing is archived")
    Output(as_json).result({"verified": len(found), "damaged": damaged}, shown)
    if damaged:
        raise CommandError(f"{len(damaged)} of {len(found)} archive objects are damaged or missing")


@app.command()
def purge(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without this it is only shown.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="How many threads at most; what is kept does not count.")
    ] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Remove archived threads that are older than their purge age, for good, with their search documents."""
    from perdure.cli import archive_work

    output = Output(as_json)
    found = asyncio.run(archive_work.purge(_settings(), limit=limit, dry_run=not yes))
    _show(output, found, "nothing is old enough", dry_run=not yes)
    _require_done(
        found, "the purge was broken off; `perdure archive purge --yes` goes on with it once the cause is mended"
    )
    if not yes and any(row["result"] == "would be purged" for row in found):
        output.note("Nothing was removed. `perdure archive purge --yes` removes them for good.")


@app.command()
def restore(
    thread: ThreadArgument,
    *,
    by: By = "perdure archive restore",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is back.")] = True,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.")] = 300.0,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Bring a thread back from the archive."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        asked = gateway.post("threads", thread, "restore", body={"by": by})
        found = _until_back(gateway, thread, timeout) if wait else asked
    output.result(found, f"{thread} is back" if wait else f"{thread} is coming back")


@app.command()
def hold(
    thread: ThreadArgument,
    reason: Annotated[str, typer.Option(help="Why, e.g. the number of a case.")],
    by: By,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Put a thread under legal hold: it is neither archived nor purged."""
    with Gateway(url) as gateway:
        found = gateway.put("threads", thread, "hold", body={"by": by, "reason": reason})
    Output(as_json).result(found, f"{thread} is held")


@app.command()
def release(thread: ThreadArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """End a legal hold."""
    with Gateway(url) as gateway:
        gateway.delete("threads", thread, "hold")
    Output(as_json).result({"thread_id": thread, "held": False}, f"{thread} is not held any more")


def _settings() -> SchedulerSettings:
    """Those of the environment, else of the local stack of this folder, else the defaults."""
    from perdure.chassis.service import switch_on
    from perdure.cli.provision import service_settings
    from perdure.scheduler.settings import SchedulerSettings

    settings = service_settings(Stack().environment(), SchedulerSettings)
    switch_on(settings)
    return settings


def _show(output: Output, found: list[dict[str, Any]], empty: str, *, dry_run: bool) -> None:
    counts = Counter(row["result"].partition(":")[0] for row in found)
    output.result({"dry_run": dry_run, "counts": counts, "threads": found}, table(found, _COLUMNS, empty))
    if found:
        output.note(", ".join(f"{count} {result}" for result, count in counts.items()))


def _require_done(found: list[dict[str, Any]], otherwise: str) -> None:
    if any(row["result"].startswith("failed") for row in found):
        raise CommandError(otherwise)


def _until_back(gateway: Gateway, thread: str, timeout_s: float) -> Any:
    """The thread, once it is readable."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            return gateway.get("threads", thread)
        except ProblemError as error:
            if error.problem.get("type") != ARCHIVED:
                raise
            if time.monotonic() > end:
                raise CommandError(
                    f"thread {thread} is not back after {timeout_s:g} s; the scheduler goes on, its log says what hinders it. "
                    f"{error.problem.get('detail')}"
                ) from error
        time.sleep(POLL_S)
