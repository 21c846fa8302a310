"""Values of databases and of Python as JSON, so that every kind of source is compared in the same way.

Contract: times become ISO 8601 with their zone, decimals floats, ids text, bytes base64. NaN, infinity and a time without a zone
are refused, never replaced.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from perdure.chassis import json as fast
from perdure.validator.sources.errors import SourceError


def refuse(value: Any) -> Any:
    """Refuse a value of any other type."""
    raise TypeError(f"{type(value).__name__} is not JSON")


def plain(value: Any, other: Callable[[Any], Any] = refuse) -> Any:
    """A value as JSON.

    Args:
        value: What a source gave.
        other: Makes something simpler of a type that is unknown here, or raises.

    Raises:
        SourceError: it cannot be said in JSON.

    """

    def simpler(one: Any) -> Any:
        if isinstance(one, datetime) and one.tzinfo is None:
            raise ValueError(f"the time {one} has no time zone")
        if isinstance(one, date):
            return one.isoformat()
        if isinstance(one, Decimal):
            return float(one)
        if isinstance(one, UUID):
            return str(one)
        if isinstance(one, bytes | bytearray | memoryview):
            return base64.b64encode(one).decode()
        if isinstance(one, BaseModel):
            return one.model_dump()
        return other(one)

    try:
        return fast.loads(json.dumps(value, default=simpler, allow_nan=False))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SourceError(f"what it gave is not JSON: {error}", retryable=False) from error
