"""How many requests of one kind, which stay for long, are served at once: in all, and of one tenant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from perdure.gateway.http.bodies import busy


class Places:
    """Places for requests of one kind.

    Args:
        total: Requests at once; one tenant gets half of them.
        what: They are, for the sentence that refuses one more.

    """

    def __init__(self, total: int, what: str) -> None:
        self._total = total
        self._share = max(1, total // 2)
        self._what = what
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, tenant: str) -> Iterator[None]:
        """Hold a place.

        Raises:
            RequestProblem: ``busy``: none is free.

        """
        if self._taken[tenant] >= self._share or self._taken.total() >= self._total:
            raise busy(f"Too many {self._what} are open.")
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._taken[tenant] -= 1
            if not self._taken[tenant]:
                del self._taken[tenant]
