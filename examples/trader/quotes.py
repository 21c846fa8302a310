"""A live quote server: ``python quotes.py --price 10 --port 8201``.

* ``GET /quotes/ACME``: ``{"symbol", "price", "open", "at"}``; ``PUT`` with ``{"price": 12}`` or ``{"open": false}`` changes that.
* ``GET /history/ACME``: ``{"closes": [...]}``, 250 of them, the same ones each time.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

PERIODS = 250
DRIFT, VOLATILITY = 0.004, 0.02


@dataclass
class Market:
    """The state of the world."""

    price: float
    open: bool = True
    prices: dict[str, float] = field(default_factory=dict)

    def quote(self, symbol: str) -> dict[str, Any]:
        """What is true now."""
        price = self.prices.get(symbol, self.price)
        return {"symbol": symbol, "price": price, "open": self.open, "at": datetime.now(UTC).isoformat()}


MARKET = web.AppKey("market", Market)


async def get_quote(request: web.Request) -> web.Response:
    """The price now."""
    return web.json_response(request.app[MARKET].quote(request.match_info["symbol"]))


async def put_quote(request: web.Request) -> web.Response:
    """Change it."""
    market, symbol, change = request.app[MARKET], request.match_info["symbol"], await request.json()
    if "price" in change:
        market.prices[symbol] = float(change["price"])
    market.open = bool(change.get("open", market.open))
    return web.json_response(market.quote(symbol))


async def get_history(request: web.Request) -> web.Response:
    """A random walk with a seed."""
    symbol = request.match_info["symbol"]
    walk, price = random.Random(symbol), 5.0  # noqa: S311 (prices, not secrets)
    closes = []
    for _ in range(PERIODS):
        price *= 1 + walk.gauss(DRIFT, VOLATILITY)
        closes.append(round(price, 4))
    return web.json_response({"symbol": symbol, "closes": closes})


def application(price: float) -> web.Application:
    """A world in which everything costs ``price``."""
    app = web.Application()
    app[MARKET] = Market(price)
    app.router.add_get("/quotes/{symbol}", get_quote)
    app.router.add_put("/quotes/{symbol}", put_quote)
    app.router.add_get("/history/{symbol}", get_history)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8201)
    parser.add_argument("--price", type=float, default=10.0)
    given = parser.parse_args()
    web.run_app(application(given.price), host="127.0.0.1", port=given.port)
