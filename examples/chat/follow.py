"""Read everything that an agent does, for as long as it lives. Stop it whenever you like, and start it again on Monday.

    python follow.py THREAD [--url http://127.0.0.1:8123] [--place FILE]

It keeps the id of the last event that it showed in a file, and reads on from there: nothing is missing and nothing comes twice,
however long it was away, whatever was restarted meanwhile. Only the single words of a message are gone after an hour; the message
is not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import suppress
from pathlib import Path

import httpx
from langgraph_sdk import get_client

AGAIN_S = 1.0


async def follow(thread: str, url: str, place: Path) -> None:
    """Show the events after the one that ``place`` names, and note each."""
    client = get_client(url=url, api_key=None)
    while True:
        last = place.read_text() if place.exists() else "-1"
        try:
            async for part in await client.threads.join_stream(thread, last_event_id=last, stream_mode="run_modes"):
                print(part.id, part.event, json.dumps(part.data)[:160], flush=True)
                if part.id:
                    place.write_text(part.id)
            return  # the thread is gone
        except httpx.TransportError:
            await asyncio.sleep(AGAIN_S)  # a gateway that ends, a network that is away: read on from the same place


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("thread")
    parser.add_argument("--url", default="http://127.0.0.1:8123")
    parser.add_argument("--place", type=Path, help="where to keep the last event's id; THREAD.place by default")
    given = parser.parse_args()
    place = given.place or Path(f"{given.thread}.place")
    with suppress(KeyboardInterrupt):
        asyncio.run(follow(given.thread, given.url, place))


if __name__ == "__main__":
    main()
