"""``perdure grants``: what each service may do, as commands of the servers (``perdure.schemas.grants``)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated, Any

import typer

from perdure.cli.errors import CommandError
from perdure.schemas.grants import DATABASE_NAME, INDEXED, SERVICES, Grants

app = typer.Typer(no_args_is_help=True, help="Show what each service may do with each server.")


class Format(StrEnum):
    """For which server."""

    KAFKA = "kafka"
    MONGODB = "mongodb"
    OPENSEARCH = "opensearch"


Service = Annotated[str | None, typer.Option("--service", help="One of the services; all without.")]
For = Annotated[Format, typer.Option("--format", help="The server whose commands are printed.")]
Bootstrap = Annotated[str, typer.Option("--bootstrap-server", help="The brokers, as the commands for Kafka name them.")]
DatabaseName = Annotated[str, typer.Option("--database", help="The database, as the commands for MongoDB name it.")]


@app.callback()
def grants() -> None:
    """Show what each service may do with each server."""


@app.command("print")
def print_(
    service: Service = None,
    format_: For = Format.KAFKA,
    bootstrap_server: Bootstrap = "localhost:9093",
    database: DatabaseName = DATABASE_NAME,
) -> None:
    """Print access control lists for kafka-acls.sh, roles for mongosh, or roles for OpenSearch's security plugin (roles.yml)."""
    if service is not None and service not in SERVICES:
        raise CommandError(f"there is no service {service!r}; known: {', '.join(SERVICES)}")
    chosen = {name: one for name, one in SERVICES.items() if service in (None, name)}
    lines: dict[Format, Callable[[], Iterable[str]]] = {
        Format.KAFKA: lambda: kafka(chosen, bootstrap_server),
        Format.MONGODB: lambda: mongodb(chosen, database),
        Format.OPENSEARCH: lambda: opensearch(chosen),
    }
    for line in lines[format_]():
        typer.echo(line)


def acls(name: str, grants_: Grants) -> list[tuple[str, str, str, str]]:
    """Access control lists of a service: kind of resource, its name, ``literal`` or ``prefixed``, operation."""
    found = [("topic", topic, "literal", "READ") for topic in grants_.read_topics]
    found += [("topic", topic, "literal", "WRITE") for topic in grants_.written_topics]
    found += [("topic", topic, "literal", "DESCRIBE_CONFIGS") for topic in grants_.described]
    found += [("group", group, "literal", "READ") for group in grants_.groups]
    found += [("group", group, "prefixed", "READ") for group in grants_.group_prefixes]
    found += [("group", group, "literal", "DESCRIBE") for group in grants_.described_groups]
    if name == "operator":
        # perdure topics apply: creates topics, raises partitions, sets settings back.
        found += [("topic", "perdure.", "prefixed", one) for one in ("CREATE", "ALTER", "ALTER_CONFIGS", "DESCRIBE")]
    return found


def kafka(services: dict[str, Grants], bootstrap_server: str) -> Iterable[str]:
    """Commands of Kafka's own tool."""
    yield "# kafka-acls.sh of Kafka; admin.properties says how an administrator connects."
    for name, one in services.items():
        for kind, resource, pattern, operation in acls(name, one):
            words = ["kafka-acls.sh", "--bootstrap-server", bootstrap_server, "--command-config", "admin.properties"]
            words += ["--add", "--allow-principal", f"User:{name}", "--operation", operation.title().replace("_", "")]
            words += [f"--{kind}", resource, "--resource-pattern-type", pattern]
            yield shlex.join(words)


def role(name: str, grants_: Grants, database: str) -> dict[str, Any]:
    """The command ``createRole`` of a service's role."""
    indexed = INDEXED if grants_.makes_indexes else ()
    privileges = [
        {"resource": {"db": database, "collection": collection}, "actions": sorted(actions)}
        for collection, actions in sorted(grants_.collections.items())
    ]
    if indexed:
        privileges.append({"resource": {"db": database, "collection": ""}, "actions": sorted(indexed)})
    return {"createRole": f"perdure-{name}", "privileges": privileges, "roles": []}


def mongodb(services: dict[str, Grants], database: str) -> Iterable[str]:
    """Commands for ``mongosh``, run by a user administrator on the database."""
    yield f"// mongosh {database}: run by an administrator of users. passwordPrompt() asks for each user's password."
    for name, one in services.items():
        if not one.collections:
            continue
        yield f"db.runCommand({json.dumps(role(name, one, database))})"
        user = {"createUser": name, "roles": [{"role": f"perdure-{name}", "db": database}]}
        yield f"db.runCommand({{...{json.dumps(user)}, pwd: passwordPrompt()}})"


def opensearch(services: dict[str, Grants]) -> Iterable[str]:
    """Roles and their mapping as the security plugin reads them: the bodies of its API."""
    yield "# OpenSearch's security plugin: PUT _plugins/_security/api/roles/<role> and .../rolesmapping/<role>"
    for name, one in services.items():
        if not one.indices:
            continue
        yield f"PUT _plugins/_security/api/roles/perdure-{name}"
        yield json.dumps(security_role(one))
        yield f"PUT _plugins/_security/api/rolesmapping/perdure-{name}"
        yield json.dumps({"users": [name]})


def security_role(grants_: Grants) -> dict[str, Any]:
    """A role of the security plugin."""
    return {
        "cluster_permissions": [*grants_.cluster],
        "index_permissions": [
            {"index_patterns": [pattern], "allowed_actions": [*actions]} for pattern, actions in grants_.indices.items()
        ],
    }
