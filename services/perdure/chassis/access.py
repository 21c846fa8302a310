"""Where MongoDB and OpenSearch are and how a client proves who it is: plain data, no client library.

Contract: an access is complete: address, certificates and credentials. Its text shows none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import FilePath, SecretStr, model_validator

from perdure.chassis.environment import EnvironmentSettings


@dataclass(frozen=True, slots=True)
class MongodbAccess:
    """One MongoDB deployment.

    Attributes:
        uri: With user, password and options.
        ca_file: Certificates (PEM) that its servers are verified with; the system's by default. Switches TLS on.
        cert_key_file: The client's certificate and its private key in one file (PEM). Switches TLS on.

    """

    uri: str = field(repr=False)
    ca_file: Path | None = None
    cert_key_file: Path | None = None

    def options(self) -> dict[str, Any]:
        """What is said beside the URI."""
        files = {"tlsCAFile": self.ca_file, "tlsCertificateKeyFile": self.cert_key_file}
        given = {name: str(path) for name, path in files.items() if path is not None}
        return {"tls": True, **given} if given else {}


@dataclass(frozen=True, slots=True)
class OpenSearchAccess:
    """One OpenSearch cluster.

    Attributes:
        url: ``http[s]://[user:password@]host:port[/prefix]``.
        ca_file: Certificates (PEM) that ``https`` is verified with; the system's by default.
        cert_file: The client's certificate (PEM).
        key_file: The private key of the client's certificate (PEM).
        api_key: Sent as ``Authorization: ApiKey ...``.

    """

    url: str = field(repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    api_key: str | None = field(default=None, repr=False)


class MongodbSettings(EnvironmentSettings):
    """Where MongoDB is."""

    mongodb_uri: SecretStr = SecretStr("mongodb://127.0.0.1:27217/perdure")
    """With user, password and options, as MongoDB's drivers read it. The database is the one that the URI names, ``perdure`` if it
    names none."""
    mongodb_ca_file: FilePath | None = None
    """Certificates (PEM) that MongoDB's servers are verified with; the URI's ``tlsCAFile`` or the system's by default. Switches TLS
    on."""
    mongodb_cert_key_file: FilePath | None = None
    """The client's certificate and its private key in one file (PEM), as the URI's ``tlsCertificateKeyFile``. Switches TLS on."""

    @property
    def mongodb(self) -> MongodbAccess:
        """How MongoDB is reached."""
        return MongodbAccess(self.mongodb_uri.get_secret_value(), self.mongodb_ca_file, self.mongodb_cert_key_file)


class OpenSearchSettings(EnvironmentSettings):
    """Where OpenSearch is."""

    opensearch_url: SecretStr = SecretStr("http://127.0.0.1:19200")
    """May hold user and password: ``https://user:password@host:9200``."""
    opensearch_ca_file: FilePath | None = None
    """Certificates (PEM) that an ``https`` OpenSearch is verified with; the system's by default."""
    opensearch_cert_file: FilePath | None = None
    """The client's certificate (PEM), for clusters that ask for one."""
    opensearch_key_file: FilePath | None = None
    """The private key of the client's certificate (PEM)."""
    opensearch_api_key: SecretStr | None = None
    """Sent as ``Authorization: ApiKey ...``, in place of user and password."""

    @model_validator(mode="after")
    def _complete_opensearch(self) -> Self:
        if (self.opensearch_cert_file is None) != (self.opensearch_key_file is None):
            raise ValueError(
                "a client certificate needs both PERDURE_OPENSEARCH_CERT_FILE and PERDURE_OPENSEARCH_KEY_FILE"
            )
        return self

    @property
    def opensearch(self) -> OpenSearchAccess:
        """How OpenSearch is reached."""
        return OpenSearchAccess(
            self.opensearch_url.get_secret_value(),
            self.opensearch_ca_file,
            self.opensearch_cert_file,
            self.opensearch_key_file,
            self.opensearch_api_key.get_secret_value() if self.opensearch_api_key is not None else None,
        )
