"""An authorization server that gives tokens by the client credentials grant, for a broker that checks no signature."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs


class TokenServer:
    """Where it is, and what it was asked."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.asked: list[tuple[str | None, dict[str, list[str]]]] = []
        """Authorization headers and forms."""
        self.status = 200
        self.lasts_s = 300
        self.url = ""

    def token(self) -> str:
        """A token that is good now."""
        now = int(time.time())
        claims = {"sub": self.subject, "iat": now, "exp": now + self.lasts_s, "scope": "kafka"}
        return f"{_part({'alg': 'none'})}.{_part(claims)}."


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@contextmanager
def token_server(subject: str) -> Iterator[TokenServer]:
    """Runs for as long as the block lasts."""
    server = TokenServer(subject)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["content-length"])).decode()
            server.asked.append((self.headers["authorization"], parse_qs(form)))
            answer = {"access_token": server.token(), "token_type": "Bearer", "expires_in": server.lasts_s}
            body = json.dumps(answer).encode()
            self.send_response(server.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{listening.server_address[1]}/token"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
