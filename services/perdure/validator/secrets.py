"""Secrets of the validator's environment that headers of HTTP premises name: ``${PERDURE_SOURCE_QUOTES}``.

Contract: a secret is sent to the hosts of ``PERDURE_SOURCE_QUOTES_HOSTS`` and to no other, so without that list to none. No other
variable can be sent, and no value is ever shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from yarl import URL

from perdure.chassis.hosts import Hosts
from perdure.validator.sources.errors import SourceError

PREFIX: Final = "PERDURE_SOURCE_"
HOSTS: Final = "_HOSTS"
_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")


class Secrets:
    """The secrets of one environment.

    Args:
        environment: Variables by name.

    Raises:
        ConfigurationError: a list of hosts cannot be used.

    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        self._hosts = {
            name.removesuffix(HOSTS): Hosts.of_text(value, name) for name, value in ours.items() if name.endswith(HOSTS)
        }
        self._values = {name: value for name, value in ours.items() if not name.endswith(HOSTS)}

    def unbound(self) -> list[str]:
        """The secrets that can be sent nowhere, because no hosts are named for them."""
        return sorted(name for name in self._values if name not in self._hosts)

    def fill(self, text: str, url: URL) -> str:
        """A header's value with its secrets, for a request to ``url``.

        Raises:
            SourceError: a secret does not exist or must not be sent there.

        """
        return _VARIABLE.sub(lambda found: self._value(found[1], url), text)

    def _value(self, name: str, url: URL) -> str:
        if not name.startswith(PREFIX) or name.endswith(HOSTS):
            raise SourceError(f"a header names ${{{name}}}: only variables {PREFIX}* may be sent", retryable=False)
        if name not in self._values:
            raise SourceError(
                f"a header needs {name}, which the validator's environment does not have", retryable=False
            )
        if name not in self._hosts:
            raise SourceError(
                f"{name} is sent nowhere: name its hosts in the validator's environment, {name}{HOSTS}={url.raw_host}",
                retryable=False,
            )
        if not self._hosts[name].name(url):
            raise SourceError(
                f"{url.raw_host} is not among {name}{HOSTS}: the secret is not sent there", retryable=False
            )
        return self._values[name]
