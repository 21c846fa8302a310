"""``perdure up | down | status | logs | dev | demo``: the servers and services on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import typer

from perdure.cli.options import AsJson
from perdure.cli.output import Output, table
from perdure.cli.provision import provision
from perdure.local.dev import run_dev
from perdure.local.foreground import INTERRUPTED, leave, stop_at_signals
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
    as_json: AsJson = False,
) -> None:
    """Start the servers and all services, print where they are, and start again what ends by itself."""
    from perdure.cli.up import up as run

    run(ephemeral, config, as_json)


def down(as_json: AsJson = False) -> None:
    """Stop everything that `perdure up` started in this folder; the data stays."""
    output = Output(as_json)
    with output.display() as display:
        stack = Stack(display=display)
        running = list(stack.running())
        stack.stop()
    output.result({"stopped": running}, f"stopped {', '.join(running)}" if running else "nothing was running here")


def status(as_json: AsJson = False) -> None:
    """Show every server and service of this folder; exit status 1 if one is not ready."""
    output = Output(as_json)
    stack = Stack()
    found = [one.model_dump(mode="json", exclude_none=True) for one in stack.status()]
    output.result(found, table(found, _STATUS_COLUMNS, "nothing was started here; `perdure up` starts it"))
    if stack.running() and stack.supervisor() is None:
        output.note("nothing starts these again when they end: their supervisor is gone; `perdure up` starts one")
    if any(one["state"] not in ("ready", "external") for one in found):
        raise typer.Exit(1)


def logs(
    service: Annotated[str | None, typer.Argument(help="A server or service; all if none is named.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of each log at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show the logs of servers and services."""
    output = Output(as_json)
    stack = Stack()
    if service is not None:
        output.lines((service if as_json else "", line) for line in stack.logs(service, follow=follow, lines=lines))
        return
    names = list(stack.state.read().records)
    for name in names:
        output.lines((name, line) for line in stack.logs(name, lines=lines))
    if follow and names:
        output.lines(_follow_all(stack, names))


def dev(
    config: Annotated[Path, typer.Option(help="The project's langgraph.json.")] = Path(CONFIG_NAME),
    as_json: AsJson = False,
) -> None:
    """Start everything for your project and start agent-step anew when its code changes; Ctrl-C stops it."""
    stop = stop_at_signals()
    with Output(as_json).display() as display:
        run_dev(config, display=display, stop=stop, prepare=provision)
    if stop.is_set():
        leave(INTERRUPTED)


def demo() -> None:
    """Run the demo: audit a real source tree, kill the worker in the middle, and see that nothing is lost."""
    from perdure.cli.demo import demo as run

    run()


def _follow_all(stack: Stack, names: list[str]) -> Iterator[tuple[str, str]]:
    """Lines of all logs as they come, until every process has ended."""
    queue: SimpleQueue[tuple[str, str] | None] = SimpleQueue()

    def read(name: str) -> None:
        for line in stack.logs(name, follow=True, lines=0):
            queue.put((name, line))
        queue.put(None)

    for name in names:
        threading.Thread(target=read, args=(name,), name=f"log-{name}", daemon=True).start()
    reading = len(names)
    while reading:
        item = queue.get()
        if item is None:
            reading -= 1
        else:
            yield item
