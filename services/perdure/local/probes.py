"""Health checks that need no client library: the first request of each protocol, by hand.

Contract: every probe answers in at most ``TIMEOUT_S`` and returns None when the server is ready, else what is missing.
Formats: Kafka's Metadata request v1 (kafka.apache.org/protocol), MongoDB's OP_MSG with a ``hello`` command
(MongoDB wire protocol and bsonspec.org), OpenSearch's ``GET /_cluster/health``.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import struct
import urllib.error
import urllib.request
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

TIMEOUT_S: Final = 2.0
_KAFKA_METADATA: Final = 3
_KAFKA_METADATA_VERSION: Final = 4
_OP_MSG: Final = 2013


def probe_kafka(host: str, port: int, brokers: int = 1) -> str | None:
    """Ready when the broker lists so many brokers at least, and a controller, in its metadata."""
    client = b"perdure"
    header = struct.pack(">hhih", _KAFKA_METADATA, _KAFKA_METADATA_VERSION, 1, len(client)) + client
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as connection:
            request = header + struct.pack(">i?", 0, False)
            connection.sendall(struct.pack(">i", len(request)) + request)
            size = struct.unpack(">i", _receive(connection, 4))[0]
            answer = _receive(connection, size)
    except OSError as error:
        return f"no answer: {error}"
    listed: int = struct.unpack(">i", answer[8:12])[0]
    return None if listed >= brokers else f"{listed or 'no'} broker is registered yet"


def probe_mongodb(host: str, port: int) -> str | None:
    """Ready when the server says that it is a writable primary."""
    body = b"\x10hello\x00" + struct.pack("<i", 1) + b"\x02$db\x00" + struct.pack("<i", 6) + b"admin\x00"
    document = struct.pack("<i", len(body) + 5) + body + b"\x00"
    message = struct.pack("<iB", 0, 0) + document
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as connection:
            connection.sendall(struct.pack("<iiii", len(message) + 16, 1, 0, _OP_MSG) + message)
            size = struct.unpack("<i", _receive(connection, 4))[0]
            answer = _receive(connection, size - 4)
    except OSError as error:
        return f"no answer: {error}"
    return None if b"\x08isWritablePrimary\x00\x01" in answer else "not a writable primary yet"


def probe_opensearch(url: str) -> str | None:
    """Ready when the cluster's health is yellow or green (of one node, yellow is the normal state)."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/_cluster/health", timeout=TIMEOUT_S) as response:  # noqa: S310 (an address that the operator set)
            status = json.load(response).get("status")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"no answer: {error}"
    return None if status in ("green", "yellow") else f"the cluster is {status}"


def probe_http(url: str) -> str | None:
    """Ready when the address answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 (an address that the operator set)
            return None if response.status == http.HTTPStatus.OK else f"HTTP {response.status}"
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP {error.code}: {error.read(500).decode(errors='replace')}"
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"


def ready_warnings(url: str) -> list[str]:
    """What a gateway's ``GET /ready`` warns of; empty if it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 (an address that the operator set)
            return [str(warning) for warning in json.load(response).get("warnings", ())]
    except (OSError, ValueError, http.client.HTTPException):
        return []


def probe_external(name: str, address: str) -> str | None:
    """Check a server that somebody else runs, with whatever its address allows."""
    if name == "mongodb":
        # The URI may ask for TLS, passwords or SRV records, which only the client library understands.
        from perdure.chassis.access import MongodbSettings
        from perdure.chassis.mongo import ping_blocking

        return ping_blocking(MongodbSettings(mongodb_uri=SecretStr(address)).mongodb, TIMEOUT_S)
    if name == "opensearch":
        return _probe_cluster(address)
    for server in address.split(","):
        parts = urlsplit(f"//{server.rpartition('://')[2].strip()}")
        try:
            socket.create_connection((parts.hostname or "", parts.port or 9092), TIMEOUT_S).close()
        except (OSError, ValueError) as error:
            problem = f"{server}: no answer: {error}"
        else:
            return None
    return problem


def _probe_cluster(address: str) -> str | None:
    """Ready when the cluster of somebody else answers; it may ask for certificates and credentials."""
    from perdure.chassis.access import OpenSearchSettings
    from perdure.chassis.errors import PerdureError
    from perdure.chassis.opensearch import OpenSearch

    async def ask() -> Any:
        client = OpenSearch(OpenSearchSettings(opensearch_url=SecretStr(address)).opensearch, timeout_s=TIMEOUT_S)
        try:
            return await client.request("GET", "/_cluster/health")
        finally:
            await client.close()

    try:
        status = asyncio.run(ask()).get("status")
    except PerdureError as error:
        return f"no answer: {error}"
    return None if status in ("green", "yellow") else f"the cluster is {status}"


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionError("the connection was closed")
        received += part
    return received
