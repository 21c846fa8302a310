"""``perdure topics``: what is declared in ``perdure.schemas.topics`` against what the brokers have."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.options import AsJson
from perdure.cli.output import Output, table
from perdure.local.stack import Stack
from perdure.schemas import topics

if TYPE_CHECKING:
    from perdure.chassis.kafka.admin import TopicAdmin

app = typer.Typer(no_args_is_help=True, help="Create the Kafka topics and compare them with what is declared.")

Replication = Annotated[
    int | None,
    typer.Option(min=1, help="Replication factor of new topics; default 3, or as many brokers as there are."),
]


def _admin() -> TopicAdmin:
    """Of the brokers of the environment, else those of the local stack of this folder, else the default."""
    from perdure.chassis.kafka.admin import TopicAdmin
    from perdure.cli.provision import service_settings

    return TopicAdmin(service_settings(Stack().environment()))


@app.command()
def apply(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the differences and change nothing.")] = False,
    replication: Replication = None,
    as_json: AsJson = False,
) -> None:
    """Create missing topics, raise partitions and set settings back; never lowers or deletes."""
    output = Output(as_json)
    admin = _admin()
    work = admin.diff(topics.ALL) if dry_run else admin.apply(topics.ALL, replication)
    changes = [asdict(change) for change in asyncio.run(work)]
    columns = {"topic": "topic", "to do" if dry_run else "done": "action", "what": "detail"}
    output.result({"dry_run": dry_run, "changes": changes}, table(changes, columns, "no difference"))


@app.command("list")
def list_topics(as_json: AsJson = False) -> None:
    """Show the declared topics and how the brokers have them."""
    output = Output(as_json)
    existing = asyncio.run(_admin().existing())
    rows = []
    for topic in topics.ALL:
        found = existing.get(topic.name)
        rows.append(
            {
                "topic": topic.name,
                "declared": topic.partitions,
                "partitions": found.partitions if found else None,
                "replication": found.replication if found else None,
                "settings": ", ".join(f"{k}={v}" for k, v in sorted(topic.config.items())),
            }
        )
    columns = {name: name for name in ("topic", "declared", "partitions", "replication", "settings")}
    output.result(rows, table(rows, columns, ""))
