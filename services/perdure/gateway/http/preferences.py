"""How a start is answered: 202 or 200, by RFC 7240 and by what the caller can read. Pure functions.

Contract: the body is the same either way. The JavaScript SDK drops the body of every 202 and would not learn its run's id. It runs
on the ``fetch`` of Node and of browsers, which sends ``Sec-Fetch-Mode``. A caller that knows what it wants says it by ``Prefer``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from aiohttp import web

StartStatus = Literal["auto", "200"]
"""``auto``: 202, and 200 for ``fetch``. ``200``: 200 for all. ``Prefer`` decides before either."""

RESPOND_ASYNC, REPRESENTATION = "respond-async", "return=representation"
_STATUS = {RESPOND_ASYNC: 202, REPRESENTATION: 200}


def accepted(request: web.Request, setting: StartStatus) -> tuple[int, dict[str, str]]:
    """The status of the answer to a start, and ``Preference-Applied`` where a preference decided it.

    Of several preferences that decide, the first in the request counts.
    """
    for preference in _preferences(request):
        if preference in _STATUS:
            return _STATUS[preference], {"Preference-Applied": preference}
    by_fetch = "Sec-Fetch-Mode" in request.headers
    return 200 if by_fetch or setting == "200" else 202, {}


def _preferences(request: web.Request) -> Iterator[str]:
    """The preferences of the ``Prefer`` headers, as ``name`` or ``name=value`` in lower case, without parameters."""
    for header in request.headers.getall("Prefer", ()):
        for preference in header.split(","):
            name, equals, value = preference.partition(";")[0].partition("=")
            yield (name.strip() + equals + value.strip().strip('"')).lower()
