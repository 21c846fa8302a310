"""The trader's two partners over HTTP: who quotes prices, and who takes orders."""

from __future__ import annotations

import os
from typing import Any

import httpx

from perdure.sdk import Done, EffectNotDone, NotDone

TIMEOUT_S = 20.0


def quote_url(symbol: str) -> str:
    """Where the live price is."""
    return f"{os.environ['TRADER_QUOTES_URL']}/quotes/{symbol}"


async def quote(symbol: str) -> dict[str, Any]:
    """The live price, and whether the market is open."""
    return await _get(quote_url(symbol))


async def closes(symbol: str) -> list[float]:
    """Past closing prices, oldest first."""
    found: list[float] = (await _get(f"{os.environ['TRADER_QUOTES_URL']}/history/{symbol}"))["closes"]
    return found


async def buy(order: dict[str, Any], client_order_id: str) -> dict[str, Any]:
    """Place an order; the broker's receipt.

    Raises:
        EffectNotDone: no connection was made, so nothing can have been ordered.

    """
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
            answer = await http.post(
                f"{os.environ['TRADER_BROKER_URL']}/orders", json={**order, "client_order_id": client_order_id}
            )
    except httpx.ConnectError as error:
        raise EffectNotDone(f"the broker cannot be reached: {error}") from error
    receipt: dict[str, Any] = answer.raise_for_status().json()
    return receipt


async def find_order(client_order_id: str) -> Done | NotDone:
    """What became of an order: this broker knows every order that it ever accepted."""
    found = await _get(f"{os.environ['TRADER_BROKER_URL']}/orders", client_order_id=client_order_id)
    return Done(found["orders"][0]) if found["orders"] else NotDone()


async def _get(url: str, **query: str) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
        answer: dict[str, Any] = (await http.get(url, params=query)).raise_for_status().json()
    return answer
