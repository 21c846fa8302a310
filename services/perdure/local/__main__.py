"""``python -m perdure.local up | down | status | logs | fetch | build-mongodb``: the stack without the services."""

from __future__ import annotations

import argparse
import signal
import sys
from itertools import chain

from perdure.local.display import ConsoleDisplay
from perdure.local.errors import LocalError
from perdure.local.secantus import build_secantus_rs
from perdure.local.servers import SERVERS, fetch_all
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m perdure.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the servers")
    up.add_argument("--ephemeral", action="store_true", help="temporary data and free ports, until Ctrl-C")
    up.add_argument("servers", nargs="*", default=list(SERVERS))
    commands.add_parser("down", help="stop everything that runs here")
    commands.add_parser("status", help="show what runs here")
    logs = commands.add_parser("logs", help="show a log")
    logs.add_argument("server")
    logs.add_argument("--follow", "-f", action="store_true")
    commands.add_parser("fetch", help="download everything into the cache, start nothing")
    build = commands.add_parser("build-mongodb", help="compile the fast MongoDB-compatible server into the cache")
    build.add_argument("--optional", action="store_true", help="where it can not be compiled, say so and exit with 0")
    options = parser.parse_args(arguments)
    with ConsoleDisplay() as display:
        try:
            _run(options, display)
        except LocalError as error:
            display.say(f"error: {error}")
            return 1
    return 0


def _run(options: argparse.Namespace, display: ConsoleDisplay) -> None:
    if options.command == "build-mongodb":
        _build(display, optional=options.optional)
        return
    if options.command == "fetch":
        fetch_all(LocalSettings(), display)
        return
    stack = Stack(ephemeral=options.command == "up" and options.ephemeral, display=display)
    if options.command == "up":
        try:
            stack.start(options.servers)
            for name, value in stack.environment().items():
                display.say(f"export {name}={value}")
            if options.ephemeral:
                display.say("Ctrl-C stops it")
                signal.sigwait({signal.SIGINT, signal.SIGTERM})
        finally:
            if options.ephemeral:
                stack.stop()
    elif options.command == "down":
        stack.stop()
    elif options.command == "status":
        for status in stack.status():
            display.say(status.model_dump_json(exclude_none=True))
    else:
        log = stack.log(options.server)
        for line in chain(log.last(100), log.coming() if options.follow else ()):
            sys.stdout.write(f"{line}\n")


def _build(display: ConsoleDisplay, *, optional: bool) -> None:
    try:
        display.say(str(build_secantus_rs(LocalSettings().cache_dir.absolute(), display)))
    except LocalError as error:
        if not optional:
            raise
        display.say(f"mongodb: {error}\nmongodb: secantusd-py is used instead; it writes 5 to 25 times slower")


if __name__ == "__main__":
    sys.exit(main())
