"""Inserting what is new, ignoring what is there: the one way to write documents whose ids are derived from their cause.

Contract: :func:`insert_new` returns when every document is durable or was there before, and says which were there. It raises
for everything else; what of it is an outage (``outage.is_outage``: also a write concern that was not reached, beside which there
may be duplicates and nothing else) can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymongo.errors import BulkWriteError

from perdure.chassis.at_rest import sealed
from perdure.chassis.mongo import Collection
from perdure.chassis.outage import is_outage

DUPLICATE_KEY: Final = 11000


async def insert_new(collection: Collection, documents: Sequence[Mapping[str, Any]]) -> list[int]:
    """Insert documents; the indices of those that a unique index refused, in their order.

    Raises:
        PyMongoError: not all of the others are known to be durable.

    """
    stored = [sealed(collection.name, document) for document in documents]
    try:
        await collection.insert_many(stored, ordered=False)  # type: ignore[arg-type]
    except BulkWriteError as error:
        return sorted(duplicates(error))
    return []


def duplicates(error: BulkWriteError) -> list[int]:
    """The indices of the operations that a unique index refused, if nothing else went wrong.

    Raises:
        BulkWriteError: the same, if something else did.

    """
    failures = (error.details or {}).get("writeErrors", [])
    if not failures or is_outage(error) or any(failure["code"] != DUPLICATE_KEY for failure in failures):
        raise error
    return [failure["index"] for failure in failures]
