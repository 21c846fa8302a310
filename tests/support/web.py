"""A web server in a thread that records what it is sent, as the target of webhooks or of an agent's requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """A request; the names of its headers are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class RecordingServer(ThreadingHTTPServer):
    """Answers GET and POST without a body, with the status that ``status`` gives for a request's number, from 0."""

    def __init__(self, status: Callable[[int], int]) -> None:
        self.requests: list[Request] = []
        self._status = status
        self._recording = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def bodies(self, path: str | None = None) -> list[dict[str, Any]]:
        """The JSON bodies that came, in their order; of one path, if it is given."""
        return [request.json() for request in self.requests if path is None or request.path == path]

    def record(self, request: Request) -> int:
        """Keep a request; the status of its answer."""
        with self._recording:
            self.requests.append(request)
            return self._status(len(self.requests) - 1)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, RecordingServer)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.send_response(self.server.record(Request(self.path, headers, body)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *args: Any) -> None:
        """Write no access log."""


@contextmanager
def recording_server(status: Callable[[int], int] = lambda _: 204) -> Iterator[RecordingServer]:
    """A server on a free port of this machine."""
    server = RecordingServer(status)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
