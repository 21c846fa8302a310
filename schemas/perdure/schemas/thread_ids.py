"""Ids of threads: as clients write them, and as they are stored (ADR 41).

Contract: pure. A thread id belongs to its tenant: two tenants may both have ``order-4711``. In storage, in Kafka and in the index
it is ``<tenant>~<id>``; threads of the tenant ``default`` are stored under the id that their client chose. Neither a tenant nor an
id that a client chose has a tilde, so no two threads share a stored id, and what a stored id means can be read from it.
"""

from __future__ import annotations

from typing import Final

UNQUALIFIED: Final = "default"
"""The tenant whose thread ids are stored as they are. Stored ids depend on it; never change it."""
SEPARATOR: Final = "~"
"""Between the tenant and the id. Stored ids have it; never change it."""
TENANT_PATTERN: Final = r"^[A-Za-z0-9._-]{1,64}$"


def qualifier(tenant: str) -> str:
    """What the stored ids of a tenant's threads begin with; empty for the tenant ``default``."""
    return "" if tenant == UNQUALIFIED else f"{tenant}{SEPARATOR}"


def stored_id(tenant: str, thread_id: str) -> str:
    """The id under which a tenant's thread is stored; a stored id stays as it is."""
    return qualified(qualifier(tenant), thread_id)


def qualified(before: str, thread_id: str) -> str:
    """As :func:`stored_id`, with the tenant's qualifier."""
    return thread_id if thread_id.startswith(before) else before + thread_id


def is_possible(tenant: str, thread_id: str) -> bool:
    """Whether a thread with this stored id can be a tenant's: not where it says that it is another one's."""
    of, separator, _ = thread_id.rpartition(SEPARATOR)
    return not separator or of == tenant != UNQUALIFIED


def both_ids(tenant: str, thread_id: str) -> tuple[str, ...]:
    """The stored id of a tenant's thread, and the one that it was indexed under before ids were qualified."""
    return tuple(dict.fromkeys((stored_id(tenant, thread_id), thread_id)))


def shown_id(thread_id: str) -> str:
    """The id of a thread as its client knows it."""
    return thread_id.rpartition(SEPARATOR)[2]
