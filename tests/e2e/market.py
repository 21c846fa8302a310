"""The trader's partners, as processes: a quote server whose price a test sets, and a broker that writes orders to a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from perdure.local.resources import free_port

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "trader"


class Market:
    """The quote server and the broker, as processes."""

    def __init__(self, folder: Path) -> None:
        self.book = folder / "orders.jsonl"
        quotes, broker = free_port(), free_port()
        self.quotes_url, self.broker_url = f"http://127.0.0.1:{quotes}", f"http://127.0.0.1:{broker}"
        self.processes = [
            self._start(folder, "quotes.py", "--port", str(quotes), "--price", "10"),
            self._start(folder, "broker.py", "--port", str(broker), "--file", str(self.book)),
        ]

    def _start(self, folder: Path, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (folder / f"{script}.log").open("wb") as log:
            command = [sys.executable, str(EXAMPLE / script), *arguments]
            return subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(10)

    def answers(self) -> bool:
        try:
            httpx.get(f"{self.quotes_url}/quotes/ACME")
            httpx.get(f"{self.broker_url}/orders")
        except httpx.TransportError:
            return False
        return True

    def costs(self, price: float) -> None:
        httpx.put(f"{self.quotes_url}/quotes/ACME", json={"price": price}).raise_for_status()

    def behaves(self, *, hang: bool = False, delay_s: float = 0.0) -> None:
        httpx.put(f"{self.broker_url}/behaviour", json={"hang": hang, "delay_s": delay_s}).raise_for_status()

    def orders(self) -> list[dict[str, Any]]:
        """As the broker's file has them."""
        return [json.loads(line) for line in self.book.read_text().splitlines()] if self.book.exists() else []
