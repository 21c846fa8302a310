"""The world outside: what effects are done to, and what validations read. A process of its own that no fault touches.

``python tests/chaos/world.py PORT FILE``. Every effect that arrives is one line of ``FILE``, on disk before it is answered:
``{"key", "thread", "effect", "at", "applied"}``; the first with a key is applied, a repeat is only written down.

* ``POST /effects`` ``{"key", "thread", "effect"}``: 200 ``{"receipt", "applied"}``; the same receipt for the same key.
* ``POST /hooks``: 200; a line ``{"hook", "type", "at"}``: the id of a notice and what it is.
* ``GET /effects/{key}``: 200 ``{"receipt"}`` or 404: was it done? (what ``reconcile`` asks)
* ``GET /price/{item}``: 200 ``{"price"}``: 10, of ``moved`` 12.
* ``GET /ready``: 200.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PRICES = {"moved": 12}


class World:
    """The effects that happened."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._lock = threading.Lock()
        self.receipts: dict[str, str] = {}

    def told(self, id_: str, body: dict[str, Any]) -> dict[str, Any]:
        """Take a notice."""
        with self._lock:
            os.write(self._file, json.dumps({"hook": id_, "type": body["type"], "at": time.time()}).encode() + b"\n")
            os.fsync(self._file)
        return {}

    def apply(self, given: dict[str, Any]) -> dict[str, Any]:
        """Do an effect, once for each key."""
        with self._lock:
            applied = given["key"] not in self.receipts
            if applied:
                self.receipts[given["key"]] = f"receipt {len(self.receipts) + 1}"
            line = given | {"at": time.time(), "applied": applied}
            os.write(self._file, json.dumps(line).encode() + b"\n")
            os.fsync(self._file)
            return {"receipt": self.receipts[given["key"]], "applied": applied}


class Handler(BaseHTTPRequestHandler):
    world: World
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        hook = self.headers.get("webhook-id")
        self._answer(200, self.world.told(hook, body) if hook else self.world.apply(body))

    def do_GET(self) -> None:
        what, _, name = self.path.strip("/").partition("/")
        if what == "price":
            self._answer(200, {"price": PRICES.get(name, 10)})
        elif what == "effects" and name in self.world.receipts:
            self._answer(200, {"receipt": self.world.receipts[name]})
        else:
            self._answer(200 if what == "ready" else 404, {})

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(port: str, path: str) -> None:
    Handler.world = World(path)
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
