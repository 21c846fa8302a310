"""The connections that premises may name, as the settings have them."""

from __future__ import annotations

from typing import Final

from pydantic import SecretStr

from perdure.chassis.access import MongodbAccess, OpenSearchAccess
from perdure.chassis.errors import ConfigurationError
from perdure.validator.settings import Connection, ValidatorSettings

MONGODB: Final = ("mongodb://", "mongodb+srv://")
OPENSEARCH: Final = ("http://", "https://")
_FOREIGN: Final = {MONGODB: ("cert_file", "key_file", "api_key"), OPENSEARCH: ("cert_key_file",)}
"""Fields that a connection of this kind does not have."""


def connections(settings: ValidatorSettings) -> tuple[dict[str, MongodbAccess], dict[str, OpenSearchAccess]]:
    """The deployments of MongoDB and the clusters of OpenSearch among the named connections.

    Raises:
        ConfigurationError: a connection is neither, or has a field that its kind does not have.

    """
    mongodb: dict[str, MongodbAccess] = {}
    opensearch: dict[str, OpenSearchAccess] = {}
    for name, given in settings.validator_connections.items():
        one = Connection(url=given) if isinstance(given, SecretStr) else given
        url = one.url.get_secret_value()
        kind = next((kind for kind in (MONGODB, OPENSEARCH) if url.startswith(kind)), None)
        if kind is None:
            known = ", ".join(MONGODB + OPENSEARCH)
            raise ConfigurationError(f"PERDURE_VALIDATOR_CONNECTIONS: {name} must begin with one of {known}")
        foreign = [field for field in _FOREIGN[kind] if getattr(one, field) is not None]
        if foreign:
            raise ConfigurationError(f"PERDURE_VALIDATOR_CONNECTIONS: {name} has no use for {', '.join(foreign)}")
        if kind is MONGODB:
            mongodb[name] = MongodbAccess(url, one.ca_file, one.cert_key_file)
        else:
            opensearch[name] = _cluster(one, settings)
    return mongodb, opensearch


def _cluster(one: Connection, settings: ValidatorSettings) -> OpenSearchAccess:
    return OpenSearchAccess(
        one.url.get_secret_value(),
        one.ca_file or settings.opensearch_ca_file,
        one.cert_file,
        one.key_file,
        one.api_key.get_secret_value() if one.api_key is not None else None,
    )
