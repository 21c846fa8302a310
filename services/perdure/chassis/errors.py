"""The error tree of the services.

::

    PerdureError
    ├── ConfigurationError      the settings, langgraph.json or the environment are wrong; say what to change
    ├── UnavailableError        a server does not answer; retryable
    │   └── UnreachableError    nothing came back from it at all: no connection, or no answer in time
    └── RefusedError            the request can never succeed as it is

``retryable`` says whether the same call may succeed later without anyone changing anything.
(The notebook has its own tree, ``perdure.checkpoint.errors``.)
"""

from __future__ import annotations


class PerdureError(Exception):
    """Base of all errors that Perdure raises on purpose."""

    retryable = False


class ConfigurationError(PerdureError):
    """Something the operator set is wrong."""


class UnavailableError(PerdureError):
    """A server that we need does not answer."""

    retryable = True

    def __init__(self, server: str, address: str, detail: str) -> None:
        super().__init__(f"{server} at {address} does not answer: {detail}")
        self.server = server
        self.address = address
        self.detail = detail


class UnreachableError(UnavailableError):
    """Nothing came back from the server: no connection, or no answer in time."""


class RefusedError(PerdureError):
    """The request was understood and is refused."""


class StalledError(Exception):
    """A client library has not come back from a call: this process cannot even end in order, and only a new one helps."""
