"""``perdure up | down | status | logs | dev | demo``: the servers and services on this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import typer

from perdure.cli.ephemeral import ephemeral_stacks
from perdure.cli.options import AsJson
from perdure.cli.output import Output, table
from perdure.local.dev import run_dev
from perdure.local.foreground import INTERRUPTED, leave, stop_at_signals
from perdure.local.log_lines import Wanted, for_people, made_at
from perdure.local.logs import Log
from perdure.local.stack import Stack

CONFIG_NAME = "langgraph.json"
_STATUS_COLUMNS = {
    "name": "name",
    "state": "state",
    "address": "address",
    "pid": "pid",
    "memory MB": "memory_mb",
    "CPU s": "cpu_s",
    "restarts": "restarts",
    "last end": "last_exit",
    "detail": "detail",
}


def up(
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Free ports and temporary data; runs until Ctrl-C, then all is gone.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="The project's langgraph.json; by default the one in this folder, if any.")
    ] = None,
    secure: Annotated[
        bool,
        typer.Option("--secure", help="Ask everybody who calls, and make an API key for the commands of this folder."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start the servers and all services, print where they are, and start again what ends by itself."""
    from perdure.cli.up import up as run

    run(ephemeral, config, secure=secure, as_json=as_json)


def down(as_json: AsJson = False) -> None:
    """Stop what `perdure up` and `perdure dev` started in this folder; only data of `up --ephemeral` goes."""
    output = Output(as_json)
    with output.display() as display:
        stack = Stack(display=display)
        running = list(stack.running())
        stack.stop()
        for ephemeral in ephemeral_stacks(Path.cwd()):
            running.extend(ephemeral.running())
            ephemeral.end_supervisor()  # which ends its stack and removes its data first
    output.result(
        {"stopped": running}, f"stopped {', '.join(running)}" if running else f"Nothing of {Path.cwd()} was running."
    )


def status(as_json: AsJson = False) -> None:
    """Show every server and service of this folder; exit status 1 if one is not ready."""
    output = Output(as_json)
    stack = Stack()
    found = [one.model_dump(mode="json", exclude_none=True) for one in stack.status()]
    output.result(
        found, table(found, _STATUS_COLUMNS, f"No stack was started from {Path.cwd()}; `perdure up` starts one.")
    )
    if stack.running() and stack.supervisor() is None:
        output.note("nothing starts these again when they end: their supervisor is gone; `perdure up` starts one")
    if any(one["state"] not in ("ready", "external") for one in found):
        raise typer.Exit(1)


def logs(
    *,
    service: Annotated[str | None, typer.Argument(help="A server or service; all if none is named.")] = None,
    thread: Annotated[str | None, typer.Option(metavar="ID", help="Only what was logged of this thread.")] = None,
    run: Annotated[str | None, typer.Option(metavar="ID", help="Only what was logged of this run.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[
        int | None,
        typer.Option("--lines", "-n", min=0, help="At most this many lines: 100 of each log, all of a thread or run."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the logs of servers and services, or the log of one agent."""
    output, stack, wanted = Output(as_json), Stack(), Wanted(thread, run)
    names = [service] if service is not None else list(stack.state.read().records)
    opened = {name: stack.log(name) for name in names}
    alone = service is not None and not as_json
    if wanted:
        found = _found(opened, wanted, lines)
        output.lines(found, wanted.unshown)
        if not found:
            output.note("nothing was logged of it here")
    else:
        for name, log in opened.items():
            last = log.last(100 if lines is None else lines)
            output.lines(("" if alone else name, line) for line in last)
    if follow and opened:
        coming = wanted.lines(_coming(opened))
        output.lines((("" if alone else name, line) for name, line in coming), wanted.unshown)


def dev(
    config: Annotated[Path, typer.Option(help="The project's langgraph.json.")] = Path(CONFIG_NAME),
    as_json: AsJson = False,
) -> None:
    """Start everything for your project and start agent-step anew when its code changes; Ctrl-C stops it.

    What the services log is shown in short lines; as JSON, on stdout, with --json or PERDURE_LOG_FORMAT=json.
    """
    from perdure.cli.provision import provision

    stop = stop_at_signals()
    output = Output(as_json or os.environ.get("PERDURE_LOG_FORMAT") == "json")
    with output.display() as display:

        def show(label: str, line: str) -> None:
            if output.as_json:
                output.lines([(label, line)])
            else:
                display.console.print(for_people(label, line), highlight=False, soft_wrap=True)

        run_dev(config, display=display, stop=stop, prepare=provision, show=show)
    if stop.is_set():
        leave(INTERRUPTED)


def demo() -> None:
    """Run the demo: audit a real source tree, kill the worker in the middle, and see that nothing is lost."""
    from perdure.cli.demo import demo as run

    run()


def _found(logs: Mapping[str, Log], wanted: Wanted, count: int | None) -> list[tuple[str, str]]:
    """The wanted lines of all logs with their sources, in the order of time; the last ``count`` if it is given."""
    every = ((name, line) for name, log in logs.items() for line in log.holding(wanted.text or ""))
    found = sorted(wanted.lines(every), key=lambda one: made_at(one[1]))
    return found if count is None else found[max(0, len(found) - count) :]


def _coming(logs: Mapping[str, Log]) -> Iterator[tuple[str, str]]:
    """Lines of all logs as they come, until every process has ended."""
    queue: SimpleQueue[tuple[str, str] | None] = SimpleQueue()

    def read(name: str, log: Log) -> None:
        for line in log.coming():
            queue.put((name, line))
        queue.put(None)

    for name, log in logs.items():
        threading.Thread(target=read, args=(name, log), name=f"log-{name}", daemon=True).start()
    reading = len(logs)
    while reading:
        item = queue.get()
        if item is None:
            reading -= 1
        else:
            yield item
