"""What the feeds of many threads keep, in bytes and in time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from perdure.gateway.streams import feed as feeds
from perdure.gateway.streams.chunks import ChunkRecord
from perdure.gateway.streams.feed import Kept
from perdure.gateway.streams.history import PAGE, History
from perdure.gateway.streams.telling import Said

BODY = b"x" * 100_000
SAID = 300_000


class LongHistory:
    """A history in which every thread has documents of the same size."""

    async def page(self, _: str, after: int) -> list[dict[str, Any]]:
        at = datetime.now(UTC)
        return [
            {"seq": seq, "kind": "c", "ns": "", "at": at, "body": BODY} for seq in range(after + 1, after + PAGE + 1)
        ]

    async def say(self, document: Mapping[str, Any], _: Any) -> Said:
        return Said(int(document["seq"]), None, "", (), nbytes=SAID)


@pytest.fixture(name="kept")
def _kept() -> Kept:
    return Kept(cast("History", LongHistory()))


async def test_a_feed_knows_what_it_keeps(kept: Kept) -> None:
    with kept.open("thread", "default") as feed:
        first, second, *_ = await feed.after(0)
        assert feed.nbytes == PAGE * first.nbytes
        await first.said()
        await first.said()
        assert feed.nbytes == SAID + (PAGE - 1) * second.nbytes
        assert feed.shrink()
        assert feed.nbytes == (PAGE - 1) * second.nbytes
        await second.said()
        while feed.shrink():
            pass
        assert feed.nbytes == 0
        await first.said()
        assert feed.nbytes == 0, "what is kept no longer is not counted"


async def test_many_feeds_are_trimmed_in_no_time(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "TRIM_S", 3_600.0)  # only the call below trims
    with ExitStack() as opened:
        opened_feeds = [opened.enter_context(kept.open(f"thread {number}", "default")) for number in range(300)]
        kept.trim()
        for number, feed in enumerate(opened_feeds):
            for seq in range(0, PAGE * (1 + number % 3), PAGE):
                await feed.after(seq)
        before = sum(feed.nbytes for feed in opened_feeds)
        assert before > 10 * feeds.KEPT_BYTES
        monkeypatch.setattr(feeds, "TRIM_S", 0.0)
        began = time.process_time()
        kept.trim()
        assert time.process_time() - began < 1.0
    sizes = [feed.nbytes for feed in opened_feeds]
    assert feeds.KEPT_BYTES - 2 * len(BODY) < sum(sizes) <= feeds.KEPT_BYTES
    assert max(sizes) - min(sizes) < 2 * len(BODY), "the largest are trimmed first"


async def test_the_chunks_of_all_threads_together_are_bounded(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "TRIM_S", 0.0)
    large, small = (ChunkRecord({"run_id": "run", "seq": 1, "chunks": [{}]}, nbytes) for nbytes in (50_000, 5))
    with ExitStack() as opened:
        rings = [opened.enter_context(kept.open(f"thread {number}", "default")).ring for number in range(200)]
        rings[0].add([small])
        for ring in rings[1:]:
            ring.add([large] * 10)
        assert sum(ring.nbytes for ring in rings) > feeds.RINGS_BYTES
        kept.trim()
    total = sum(ring.nbytes for ring in rings)
    assert feeds.RINGS_BYTES - large.nbytes < total <= feeds.RINGS_BYTES
    assert rings[0].oldest is small, "the largest are trimmed first"
    assert all(ring.start == 10 - ring.nbytes // large.nbytes for ring in rings[1:]), "the oldest are dropped"
