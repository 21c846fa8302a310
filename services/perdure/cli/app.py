"""The commands as plain data: the composition of the command line."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as installed_version

import typer

from perdure.cli import (
    approvals,
    archive,
    batches,
    deliveries,
    dlq,
    index,
    local_stack,
    runs,
    schedules,
    settings,
    signals,
    states,
    storage,
    stuck,
    subscriptions,
    threads,
    topics,
)
from perdure.cli.options import AsJson
from perdure.cli.output import Output

PARTS = ("perdure", "langgraph", "langgraph-checkpoint", "confluent-kafka", "motor", "opensearch-py", "faust-streaming")


def version(as_json: AsJson = False) -> None:
    """Show the versions of Perdure and of what it stands on."""
    found = {name: installed_version(name) for name in PARTS}
    Output(as_json).result(found, "\n".join(f"{name} {number}" for name, number in found.items()))


COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "On this machine": (
        local_stack.up,
        local_stack.down,
        local_stack.status,
        local_stack.logs,
        local_stack.dev,
        local_stack.demo,
    ),
    "Agents": (
        states.state,
        states.history,
        states.search,
        storage.storage,
        stuck.stuck,
        runs.resume,
        runs.retry,
        runs.cancel,
        signals.signal,
    ),
    "Other": (settings.settings, version),
}
GROUPS = {
    "Agents": {
        "threads": threads.app,
        "runs": runs.app,
        "batches": batches.app,
        "schedules": schedules.app,
        "approvals": approvals.app,
        "subscriptions": subscriptions.app,
    },
    "Operation": {
        "topics": topics.app,
        "index": index.app,
        "archive": archive.app,
        "dlq": dlq.app,
        "deliveries": deliveries.app,
    },
}


def build() -> typer.Typer:
    """The command line."""
    app = typer.Typer(
        name="perdure",
        help="LangGraph agents that live for days or weeks, on Kafka, MongoDB and OpenSearch.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for panel, groups in GROUPS.items():
        for name, group in groups.items():
            app.add_typer(group, name=name, rich_help_panel=panel)
    for panel, commands in COMMANDS.items():
        for command in commands:
            app.command(rich_help_panel=panel)(command)
    return app
