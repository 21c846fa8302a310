"""``python -m perdure.auth_handlers <langgraph.json>``: started by the gateway, never by hand."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from perdure.auth_handlers.handlers import load_handlers
from perdure.auth_handlers.serving import serve
from perdure.chassis import json
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.settings import ServiceSettings
from perdure.chassis.telemetry import configure_logging
from perdure.schemas.auth_questions import SOCKET_VARIABLE


def main() -> None:
    """Load the handlers, say over the socket whether that worked, and serve until the gateway closes the socket."""
    connection = socket.socket(fileno=int(os.environ.pop(SOCKET_VARIABLE)))
    configure_logging("auth_handlers", ServiceSettings())
    try:
        handlers = load_handlers(Path(sys.argv[1]))
    except ConfigurationError as error:
        connection.sendall(json.dumps({"error": str(error)}) + b"\n")
        sys.exit(1)
    connection.sendall(json.dumps({"error": None}) + b"\n")
    asyncio.run(serve(handlers, connection))


if __name__ == "__main__":
    main()
