"""What the saver remembers of threads that are hot, to write only what changed.

Contract: for a run with a scope the page lives until the scope closes: a hibernating agent costs no memory. For
ordinary use the most recent threads are kept, bounded by number and by bytes. A page is only ever a shortcut: without
it the same segments are produced again and meet themselves in the store.

A segment is taken for stored only while something that ``prune`` keeps names it: the newest checkpoint of a namespace,
its pending writes, or a subgraph call of the present superstep (ADR 26).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from langgraph.checkpoint.base import ChannelVersions

from perdure.checkpoint.scope import IN_FLIGHT_LIMIT, RunScope
from perdure.checkpoint.values import Encoded, digests_of

MAX_THREADS: Final = 64
MAX_WEIGHT: Final = 64 * 1024 * 1024
MAX_STORED: Final = 16_384


@dataclass(slots=True, eq=False)
class Page:
    """The newest checkpoint of one namespace that was loaded or put here."""

    checkpoint_id: str
    parent: str | None
    versions: ChannelVersions
    values: dict[str, Encoded]
    base: dict[str, str]
    shown: dict[str, Encoded] = field(default_factory=dict)
    """What is shown of DeltaChannels without a value here (ADR 22)."""
    seeds: dict[str, Encoded] = field(default_factory=dict)
    """What DeltaChannels were rebuilt from after a load: the first shown value differs from it by a few items."""
    passed: int = 0
    """Of a subgraph call: checkpoints that the graph above it has made since."""

    def named(self) -> dict[tuple[str, bool], Encoded]:
        """The values that its document holds, by channel and whether the value is only shown."""
        stored = {(channel, False): value for channel, value in self.values.items()}
        return stored | {(channel, True): value for channel, value in self.shown.items()}

    def digests(self) -> Iterable[bytes]:
        """The segments that it names."""
        for value in self.named().values():
            yield from digests_of(value.entry())

    def size(self) -> int:
        """Serialized bytes of its values, about."""
        return sum(value.size() for value in (*self.values.values(), *self.shown.values(), *self.seeds.values()))


@dataclass(slots=True, eq=False)
class ThreadPages:
    """The pages of one thread by namespace."""

    namespaces: dict[str, Page] = field(default_factory=dict)
    stored: set[bytes] = field(default_factory=set)
    """Digests of segments that are stored, or on their way before anything that could name them."""
    sealed: dict[int, bytes] = field(default_factory=dict)
    """Digests of the segments of a block by the fingerprint of its plain bytes."""
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(IN_FLIGHT_LIMIT))
    weight: int = 0
    unstorable: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """By namespace and channel: the nodes that wrote what cannot be stored."""
    written: dict[str, set[bytes]] = field(default_factory=dict)
    """By namespace, digests that its pending writes added to ``stored`` since its newest checkpoint."""

    def turn(self, ns: str, page: Page, *, loaded: bool) -> None:
        """Make ``page`` the newest of its namespace; only what is named from now on is taken for stored."""
        before = self.namespaces.get(ns)
        self.namespaces[ns] = page
        self.unstorable.pop(ns, None)
        calls = self._calls_below(ns)
        if loaded or len(self.stored) > MAX_STORED:
            live = [known for name, known in self.namespaces.items() if name not in calls]
            self.stored = {digest for known in live for digest in known.digests()}
            self.written.clear()
            self.sealed.clear()
        else:
            self._forget(ns, before, page, calls)
        self.weight = sum(known.size() for known in self.namespaces.values())

    def take_written(self, ns: str, fresh: set[bytes]) -> None:
        """Take segments of a namespace's pending writes for stored, until its next checkpoint."""
        if fresh:
            self.stored |= fresh
            self.written.setdefault(ns, set()).update(fresh)

    def _forget(self, ns: str, before: Page | None, page: Page, calls: Iterable[str]) -> None:
        """Forget what only the checkpoint before, its pending writes and its subgraph calls name."""
        former = {} if before is None else before.named()
        present = page.named()
        past: set[bytes] = self.written.pop(ns, set())
        for name, value in former.items():
            if present.get(name) is not value:
                past.update(digests_of(value.entry()))
        for call in calls:
            known = self.namespaces[call]
            past.update(known.digests(), self.written.pop(call, ()))
            known.passed += 1
            if known.passed > 1:  # at first the call may be running: its graph's checkpoint can be stored after its own
                del self.namespaces[call]
        if past:
            for name, value in present.items():
                if former.get(name) is not value:
                    past.difference_update(digests_of(value.entry()))
            self.stored -= past

    def _calls_below(self, ns: str) -> list[str]:
        """Namespaces of subgraph calls below ``ns``: a call's name has its task's id behind a colon."""
        start = len(ns) + 1 if ns else 0
        return [
            name
            for name in self.namespaces
            if name != ns and (not ns or name.startswith(f"{ns}|")) and ":" in name[start:]
        ]


class Pages:
    """The pages of all hot threads."""

    def __init__(self) -> None:
        self._owned: dict[str, tuple[RunScope, ThreadPages]] = {}
        self._recent: OrderedDict[str, ThreadPages] = OrderedDict()

    def of(self, thread: str, scope: RunScope | None) -> ThreadPages:
        """The pages of a thread; empty ones if it is cold."""
        if scope is None:
            return self._unowned(thread)
        found = self._owned.get(thread)
        if found is not None and found[0] is scope:
            return found[1]
        pages = ThreadPages()
        self._recent.pop(thread, None)
        self._owned[thread] = (scope, pages)
        scope.on_close(lambda: self._release(thread, scope))
        return pages

    def drop(self, thread: str) -> None:
        """Forget a thread: after a failure, or when something was deleted."""
        self._recent.pop(thread, None)
        found = self._owned.get(thread)
        if found is not None:
            found[1].namespaces.clear()
            found[1].stored.clear()
            found[1].sealed.clear()
            found[1].written.clear()

    def trim(self) -> None:
        """Keep ordinary use within its bounds."""
        weight = sum(pages.weight for pages in self._recent.values())
        while self._recent and (len(self._recent) > MAX_THREADS or weight > MAX_WEIGHT):
            _, pages = self._recent.popitem(last=False)
            weight -= pages.weight

    def __len__(self) -> int:
        return len(self._owned) + len(self._recent)

    def _unowned(self, thread: str) -> ThreadPages:
        pages = self._recent.get(thread)
        if pages is None:
            pages = self._recent[thread] = ThreadPages()
        else:
            self._recent.move_to_end(thread)
        return pages

    def _release(self, thread: str, scope: RunScope) -> None:
        found = self._owned.get(thread)
        if found is not None and found[0] is scope:
            del self._owned[thread]
