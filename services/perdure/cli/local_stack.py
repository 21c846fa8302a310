"""``perdure up | down | status | logs | dev | demo``: the servers and services on this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import typer

from perdure.cli.log_lines import Wanted, for_people, made_at
from perdure.cli.options import AsJson
from perdure.cli.output import Output, table
from perdure.local.dev import CONFIG_VARIABLE, run_dev
from perdure.local.display import Display
from perdure.local.services import Services, available_services
from perdure.local.stack import Stack

CONFIG_NAME = "langgraph.json"
AGENT_STEP = "agent_step"
_STATUS_COLUMNS = {
    "name": "name",
    "state": "state",
    "address": "address",
    "pid": "pid",
    "memory MB": "memory_mb",
    "CPU s": "cpu_s",
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
    """Start the servers and all services, and print where they are."""
    output = Output(as_json)
    if ephemeral:
        _stop_on_sigterm()
    if config is not None and not config.is_file():
        raise typer.BadParameter(f"{config} does not exist", param_hint="--config")
    found = config or (Path(CONFIG_NAME) if Path(CONFIG_NAME).is_file() else None)
    with output.display() as display:
        stack = Stack(ephemeral=ephemeral, display=display)
        try:
            urls = _start(stack, found, display)
        except BaseException:
            if ephemeral:
                stack.stop()
            raise
    output.result(urls, table([{"name": k, "url": v} for k, v in urls.items()], {"name": "name", "url": "url"}, ""))
    if AGENT_STEP in available_services() and found is None:
        output.note(f"no {CONFIG_NAME} here: no agents run. Start in your project's folder, or name it with --config.")
    if not ephemeral:
        output.note("`perdure status` shows it, `perdure down` stops it; the data stays.")
        return
    output.note("Ctrl-C stops it and removes its data.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        output.note("stopping")
    finally:
        stack.stop()


def down(as_json: AsJson = False) -> None:
    """Stop everything that `perdure up` started in this folder; the data stays."""
    output = Output(as_json)
    with output.display() as display:
        stack = Stack(display=display)
        running = [status.name for status in stack.status() if status.pid is not None]
        stack.stop()
    output.result(
        {"stopped": running}, f"stopped {', '.join(running)}" if running else f"Nothing of {Path.cwd()} was running."
    )


def status(as_json: AsJson = False) -> None:
    """Show every server and service of this folder; exit status 1 if one is not ready."""
    output = Output(as_json)
    found = [one.model_dump(mode="json", exclude_none=True) for one in Stack().status()]
    output.result(
        found, table(found, _STATUS_COLUMNS, f"No stack was started from {Path.cwd()}; `perdure up` starts one.")
    )
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
    alone = service is not None and not as_json
    if wanted:
        found = _found(stack, names, wanted, lines)
        output.lines(found, wanted.unshown)
        if not found:
            output.note("nothing was logged of it here")
    else:
        for name in names:
            count = 100 if lines is None else lines
            output.lines(("" if alone else name, line) for line in stack.logs(name, lines=count))
    if follow and names:
        coming = wanted.lines(_follow_all(stack, names))
        output.lines((("" if alone else name, line) for name, line in coming), wanted.unshown)


def dev(
    config: Annotated[Path, typer.Option(help="The project's langgraph.json.")] = Path(CONFIG_NAME),
    as_json: AsJson = False,
) -> None:
    """Start everything for your project and start agent-step anew when its code changes; Ctrl-C stops it.

    What the services log is shown in short lines; as JSON, on stdout, with --json or PERDURE_LOG_FORMAT=json.
    """
    from perdure.cli.provision import provision

    _stop_on_sigterm()
    output = Output(as_json or os.environ.get("PERDURE_LOG_FORMAT") == "json")
    with output.display() as display:

        def show(label: str, line: str) -> None:
            if output.as_json:
                output.lines([(label, line)])
            else:
                display.console.print(for_people(label, line), highlight=False, soft_wrap=True)

        run_dev(config, display=display, prepare=provision, show=show)


def demo() -> None:
    """Run the demo: audit a real source tree, kill the worker in the middle, and see that nothing is lost."""
    from perdure.cli.demo import demo as run

    run()


def _stop_on_sigterm() -> None:
    """Make SIGTERM do what Ctrl-C does, also where a shell started us with SIGINT ignored."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


def _start(stack: Stack, config: Path | None, display: Display) -> dict[str, str]:
    from perdure.cli.provision import provision

    stack.start()
    environment = stack.environment()
    with display.step("topics and indexes"):
        provision(environment)
    names = [name for name in available_services() if name != AGENT_STEP or config is not None]
    project = {} if config is None else {CONFIG_VARIABLE: str(config.resolve())}
    records = stack.state.read().records
    running = {name: records[name] for name in names if name in records and records[name].running}
    for name, record in running.items():
        display.say(f"{name}: already running at {record.address}")
    services = Services.of(
        stack,
        [name for name in names if name not in running],
        env=project,
        cwd=None if config is None else config.resolve().parent,
    )
    services.start()
    urls = {}
    if "gateway" in names:
        gateway = running["gateway"].address if "gateway" in running else services.gateway_url
        urls = {"gateway": gateway, "console": f"{gateway}/console", "docs": f"{gateway}/docs"}
    return urls | {
        "kafka": environment["PERDURE_KAFKA_BOOTSTRAP_SERVERS"],
        "mongodb": environment["PERDURE_MONGODB_URI"],
        "opensearch": environment["PERDURE_OPENSEARCH_URL"],
    }


def _found(stack: Stack, names: list[str], wanted: Wanted, count: int | None) -> list[tuple[str, str]]:
    """The wanted lines of all logs with their sources, in the order of time; the last ``count`` if it is given."""
    every = ((name, line) for name in names for line in stack.logs(name, holding=wanted.text))
    found = sorted(wanted.lines(every), key=lambda one: made_at(one[1]))
    return found if count is None else found[max(0, len(found) - count) :]


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
