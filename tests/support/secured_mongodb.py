"""A MongoDB-compatible server that speaks TLS alone and asks everybody who they are (SCRAM-SHA-256), with roles of its database."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError
from tests.support.certificates import Authority
from tests.support.polling import until_blocking

from perdure.chassis.access import MongodbAccess
from perdure.chassis.mongo import connect_blocking, ping_blocking
from perdure.local.display import SilentDisplay
from perdure.local.mongodb import prepare
from perdure.local.resources import free_port
from perdure.local.secantus import secantus
from perdure.local.settings import LocalSettings

DATABASE = "perdure"


class SecuredMongodb:
    """A running server."""

    def __init__(self, authority: Authority, port: int) -> None:
        self.authority = authority
        self.port = port

    def access(self, user: str) -> MongodbAccess:
        """How a user connects."""
        return MongodbAccess(self.uri(user), self.authority.ca_file)

    def uri(self, user: str) -> str:
        """The URI by which a user connects, which does not say who the server's authority is."""
        source = "?authSource=admin" if user == "root" else ""
        return f"mongodb://{user}:{user}-secret@127.0.0.1:{self.port}/{DATABASE}{source}"

    def environment(self, user: str) -> dict[str, str]:
        """The variables by which a service connects as a user."""
        return {"PERDURE_MONGODB_URI": self.uri(user), "PERDURE_MONGODB_CA_FILE": str(self.authority.ca_file)}

    def add(self, user: str, role: Mapping[str, Any]) -> None:
        """Add a user with a role, given as the command that creates it."""
        with connect_blocking(self.access("root")) as client:
            client[DATABASE].command(dict(role))
            client[DATABASE].command("createUser", user, pwd=f"{user}-secret", roles=[role["createRole"]])


@contextmanager
def secured_mongodb(folder: Path) -> Iterator[SecuredMongodb]:
    """A server with the user ``root``, for as long as the block lasts."""
    authority = Authority(folder / "certificates")
    port = free_port()
    program = secantus(LocalSettings().cache_dir.absolute(), SilentDisplay())
    launch = prepare(folder / "mongodb", folder / "mongodb.log", program=program, port=port, cache_mb=128)
    argv = [*launch.argv]
    add_root(argv, launch.log, port)
    argv += secured_arguments(authority)
    server = SecuredMongodb(authority, port)
    with _running(argv, launch.log, server.access("root")):
        yield server


def add_root(argv: list[str], log: Path, port: int) -> None:
    """Run the server for a moment, without security, to make its first user."""
    plain = MongodbAccess(f"mongodb://127.0.0.1:{port}/")
    with _running(argv, log, plain), connect_blocking(plain) as client:
        client.admin.command("createUser", "root", pwd="root-secret", roles=["root"])


def secured_arguments(authority: Authority) -> list[str]:
    """What the server is started with to speak TLS alone and to ask everybody who they are."""
    cert_file, key_file = authority.issued("mongodb")
    return ["--auth", "--tls-cert-file", str(cert_file), "--tls-key-file", str(key_file)]


@contextmanager
def _running(argv: list[str], log: Path, access: MongodbAccess) -> Iterator[None]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        until_blocking(
            lambda: process.poll() is None and ping_blocking(access, 2) is None,
            "the secured server answers",
            30,
            explain=lambda: (ping_blocking(access, 2), log.read_text()[-1000:]),
        )
        yield
    finally:
        process.terminate()
        process.wait(20)


def refusal(access: MongodbAccess, collection: str, action: str) -> str:
    """What the server says when a user does something to a collection; empty when it lets the user."""
    acts = {
        "find": lambda c: c.find_one({}),
        "insert": lambda c: c.insert_one({"_id": "least-privilege"}),
        "update": lambda c: c.update_one({"_id": "least-privilege"}, {"$set": {"a": 1}}),
        "remove": lambda c: c.delete_one({"_id": "least-privilege"}),
    }
    with connect_blocking(access) as client:
        try:
            acts[action](client[DATABASE][collection])
        except PyMongoError as error:
            return str(error)
    return ""
