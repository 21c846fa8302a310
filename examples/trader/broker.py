"""A broker that counts: ``python broker.py --file orders.jsonl --port 8202``.

* ``POST /orders`` accepts an order: one line in the file, then the answer. It does **not** recognise a repeated
  ``client_order_id``: whoever sends an order twice has bought twice, and the file says so.
* ``GET /orders``, ``GET /orders?client_order_id=...``: ``{"count", "orders"}``.
* ``PUT /behaviour`` with ``{"hang": true}``: from now on it accepts orders and never answers, as in a network that breaks at the
  worst moment; ``{"hang": false}`` ends that. ``{"delay_s": 0.5}``: it answers so late.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web


@dataclass
class Book:
    """What was ordered."""

    file: Path
    hang: bool = False
    delay_s: float = 0.0
    orders: list[dict[str, Any]] = field(default_factory=list)

    def load(self) -> None:
        """Take up what an earlier process accepted."""
        if self.file.exists():
            self.orders = [json.loads(line) for line in self.file.read_text().splitlines()]

    def accept(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Accept an order, durably."""
        taken = {"order_id": f"B{len(self.orders) + 1:06d}", "at": datetime.now(UTC).isoformat(), **wanted}
        with self.file.open("a") as lines:
            lines.write(json.dumps(taken) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        self.orders.append(taken)
        return taken


BOOK = web.AppKey("book", Book)


async def post_order(request: web.Request) -> web.Response:
    """Accept, and answer, unless told not to."""
    book = request.app[BOOK]
    taken = book.accept(await request.json())
    if book.hang:
        await asyncio.Event().wait()
    await asyncio.sleep(book.delay_s)
    return web.json_response(taken, status=201)


async def get_orders(request: web.Request) -> web.Response:
    """All, or those with one client order id."""
    wanted = request.query.get("client_order_id")
    orders = [one for one in request.app[BOOK].orders if wanted is None or one.get("client_order_id") == wanted]
    return web.json_response({"count": len(orders), "orders": orders})


async def put_behaviour(request: web.Request) -> web.Response:
    """Break, or heal."""
    book, wanted = request.app[BOOK], await request.json()
    book.hang = bool(wanted.get("hang", book.hang))
    book.delay_s = float(wanted.get("delay_s", book.delay_s))
    return web.json_response({"hang": book.hang, "delay_s": book.delay_s})


def application(file: Path) -> web.Application:
    """A broker that keeps its book in ``file``."""
    app = web.Application()
    app[BOOK] = Book(file)
    app[BOOK].load()
    app.router.add_post("/orders", post_order)
    app.router.add_get("/orders", get_orders)
    app.router.add_put("/behaviour", put_behaviour)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8202)
    parser.add_argument("--file", type=Path, default=Path("orders.jsonl"))
    given = parser.parse_args()
    web.run_app(
        application(given.file), host="127.0.0.1", port=given.port, handler_cancellation=True, shutdown_timeout=1
    )
