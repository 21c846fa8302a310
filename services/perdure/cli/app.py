"""The commands as plain data: the composition of the command line."""

from __future__ import annotations

import json
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from perdure.cli.lazy import Row, group_of
from perdure.cli.options import AsJson
from perdure.cli.version import PARTS, every, own

PACKAGE = "perdure.cli."

COMMANDS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "On this machine": (
        (
            "up",
            "local_stack:up",
            "Start the servers and all services, print where they are, and start again what ends by itself.",
        ),
        (
            "down",
            "local_stack:down",
            "Stop what `perdure up` and `perdure dev` started in this folder; only data of `up --ephemeral` goes.",
        ),
        (
            "status",
            "local_stack:status",
            "Show every server and service of this folder; exit status 1 if one is not ready.",
        ),
        ("logs", "local_stack:logs", "Show the logs of servers and services, or the log of one agent."),
        (
            "dev",
            "local_stack:dev",
            "Start everything for your project and start agent-step anew when its code changes; Ctrl-C stops it.",
        ),
        (
            "demo",
            "local_stack:demo",
            "Run the demo: audit a real source tree, kill the worker in the middle, and see that nothing is lost.",
        ),
    ),
    "Agents": (
        ("state", "states:state", "Show the state of a thread: its values, what runs next, what it waits for."),
        ("history", "states:history", "Show the past states of a thread, newest first."),
        (
            "search",
            "states:search",
            "Find past states of all threads: perdure search --node Login --status error --since yesterday --until today.",
        ),
        ("storage", "storage:storage", "Show what a thread takes up, in the database or in the archive."),
        (
            "stuck",
            "stuck:stuck",
            "Show who is stuck now; with a time, who got stuck: perdure stuck --node Login --since yesterday --until today.",
        ),
        ("resume", "runs:resume", "Answer the interrupt at which a thread waits."),
        (
            "retry",
            "runs:retry",
            "Go on with a run that failed or was parked, from its last checkpoint, once its cause is mended.",
        ),
        ("cancel", "runs:cancel", "Stop a run; what it has checkpointed stays."),
        ("signal", "signals:signal", "Send a signal to a thread; one that comes before its wait is kept for it."),
        ("threads", "threads:app", "Make and see threads."),
        ("runs", "runs:app", "Start runs and see how they do."),
        ("batches", "batches:app", "Run a graph over many inputs: upload, watch, pause, redrive, download."),
        ("schedules", "schedules:app", "Start runs by the clock: make, see, pause, resume and fire schedules."),
        ("approvals", "approvals:app", "See what agents ask, and answer."),
        ("subscriptions", "subscriptions:app", "Be told: subscribe a webhook, an address or a Slack channel."),
    ),
    "Operation": (
        ("grants", "grants:app", "Show what each service may do with each server."),
        ("topics", "topics:app", "Create the Kafka topics and compare them with what is declared."),
        ("index", "index:app", "The search index."),
        ("archive", "archive:app", "Retention: archive, verify, restore and purge threads; legal holds."),
        (
            "keys",
            "keys:app",
            "API keys, made and revoked on the database itself, and the encryption of what is stored.",
        ),
        ("dlq", "dlq:app", "Dead letters: see them, send them again, give them up."),
        ("deliveries", "deliveries:app", "Notices: see what became of them, send dead ones again."),
    ),
    "Other": (
        (
            "settings",
            "settings:settings",
            "Show every environment variable: who reads it, its default and what it means.",
        ),
        ("version", "app:version", "Show the versions of Perdure and of what it stands on."),
    ),
}
"""By panel: name, ``module:attribute`` in this package, help."""


def rows() -> tuple[Row, ...]:
    """The table's rows."""
    return tuple(
        Row(name, PACKAGE + where, help_, panel)
        for panel, commands in COMMANDS.items()
        for name, where, help_ in commands
    )


def build() -> typer.Typer:
    """The command line; imports none of its commands."""
    app = typer.Typer(
        name="perdure",
        cls=group_of(rows()),
        help="LangGraph agents that live for days or weeks, on Kafka, MongoDB and OpenSearch.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    return app


def version(as_json: AsJson = False) -> None:
    """Show the versions of Perdure and of what it stands on."""
    typer.echo(json.dumps({name: installed_version(name) for name in PARTS}) if as_json else every())


def _show_own_version(wanted: bool) -> None:
    if wanted:
        typer.echo(own())
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_own_version, is_eager=True, help="Show Perdure's version and exit."),
    ] = False,
) -> None:
    del version
