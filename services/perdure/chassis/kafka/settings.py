"""How the brokers are reached: addresses, TLS and SASL, the same for every Kafka client of a process.

Contract: one frozen object, read from ``PERDURE_KAFKA_*``; :meth:`KafkaSettings.client_options` is the only place that writes
librdkafka's configuration of a connection, ``perdure.indexer.credentials`` writes the same for Faust. Importing this module loads
no client library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, FilePath, SecretStr, model_validator

from perdure.chassis.environment import EnvironmentSettings

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
_NEEDED: Final[dict[bool, tuple[str, ...]]] = {
    True: ("kafka_oauth_token_url", "kafka_oauth_client_id", "kafka_oauth_client_secret"),
    False: ("kafka_sasl_username", "kafka_sasl_password"),
}
"""What SASL needs, by whether its mechanism is OAUTHBEARER."""


class KafkaSettings(EnvironmentSettings):
    """Where the brokers are and how a client proves who it is."""

    kafka_bootstrap_servers: str = "127.0.0.1:19092"
    """``host:port``, several separated by commas."""
    kafka_security_protocol: Protocol = "PLAINTEXT"
    """``PLAINTEXT``, ``SSL`` (TLS, with a client certificate or without), ``SASL_PLAINTEXT`` or ``SASL_SSL``."""
    kafka_sasl_mechanism: Mechanism | None = None
    """``PLAIN``, ``SCRAM-SHA-256``, ``SCRAM-SHA-512`` or ``OAUTHBEARER``; needed with ``SASL_PLAINTEXT`` and ``SASL_SSL``."""
    kafka_sasl_username: str | None = None
    """The user of ``PLAIN`` and ``SCRAM``."""
    kafka_sasl_password: SecretStr | None = None
    """The password of that user."""
    kafka_ssl_ca_file: FilePath | None = None
    """Certificates (PEM) that the brokers are verified with; the system's by default."""
    kafka_ssl_cert_file: FilePath | None = None
    """The client's certificate and those that lead from it to its authority (PEM)."""
    kafka_ssl_key_file: FilePath | None = None
    """The private key of the client's certificate (PEM)."""
    kafka_ssl_key_password: SecretStr | None = None
    """What the private key is encrypted with."""
    kafka_oauth_token_url: str | None = Field(default=None, pattern=r"^https?://")
    """``OAUTHBEARER``: where tokens are asked for by the client credentials grant."""
    kafka_oauth_client_id: str | None = None
    """``OAUTHBEARER``: the client's id."""
    kafka_oauth_client_secret: SecretStr | None = None
    """``OAUTHBEARER``: the client's secret."""
    kafka_oauth_scope: str | None = None
    """``OAUTHBEARER``: the scope that is asked for."""
    kafka_oauth_ca_file: FilePath | None = None
    """``OAUTHBEARER``: certificates that ``https`` of the token address is verified with; the system's by default."""

    @property
    def kafka_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.kafka_security_protocol.endswith("SSL")

    @property
    def kafka_sasl(self) -> bool:
        """Whether clients prove who they are by SASL."""
        return self.kafka_security_protocol.startswith("SASL")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kafka_sasl and self.kafka_sasl_mechanism is None:
            raise ValueError(
                f"PERDURE_KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs PERDURE_KAFKA_SASL_MECHANISM"
            )
        if not self.kafka_sasl and self.kafka_sasl_mechanism is not None:
            raise ValueError(
                "PERDURE_KAFKA_SASL_MECHANISM is set and would not be used: set PERDURE_KAFKA_SECURITY_PROTOCOL to SASL_SSL "
                "(or SASL_PLAINTEXT)"
            )
        needed = _NEEDED[self.kafka_sasl_mechanism == "OAUTHBEARER"] if self.kafka_sasl else ()
        missing = [f"PERDURE_{name.upper()}" for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{self.kafka_sasl_mechanism} needs {', '.join(missing)}")
        if (self.kafka_ssl_cert_file is None) != (self.kafka_ssl_key_file is None):
            raise ValueError(
                "a client certificate needs both PERDURE_KAFKA_SSL_CERT_FILE and PERDURE_KAFKA_SSL_KEY_FILE"
            )
        files = ("kafka_ssl_ca_file", "kafka_ssl_cert_file")
        unused = [f"PERDURE_{name.upper()}" for name in files if getattr(self, name) is not None]
        if unused and not self.kafka_tls:
            raise ValueError(
                f"{', '.join(unused)} would not be used: PERDURE_KAFKA_SECURITY_PROTOCOL is {self.kafka_security_protocol}, "
                "which does not encrypt; set SSL or SASL_SSL"
            )
        return self

    def client_options(self) -> dict[str, Any]:
        """The connection as librdkafka's configuration."""
        options: dict[str, Any] = {
            "bootstrap.servers": self.kafka_bootstrap_servers,
            "security.protocol": self.kafka_security_protocol.lower(),
        }
        if self.kafka_tls:
            options |= _given(
                {
                    "ssl.ca.location": self.kafka_ssl_ca_file,
                    "ssl.certificate.location": self.kafka_ssl_cert_file,
                    "ssl.key.location": self.kafka_ssl_key_file,
                    "ssl.key.password": self.kafka_ssl_key_password,
                    "ssl.endpoint.identification.algorithm": "https",
                }
            )
        if self.kafka_sasl:
            options["sasl.mechanism"] = self.kafka_sasl_mechanism
            options |= self._oauth() if self.kafka_sasl_mechanism == "OAUTHBEARER" else self._password()
        return options

    def _password(self) -> dict[str, Any]:
        return _given({"sasl.username": self.kafka_sasl_username, "sasl.password": self.kafka_sasl_password})

    def _oauth(self) -> dict[str, Any]:
        return _given(
            {
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": self.kafka_oauth_token_url,
                "sasl.oauthbearer.client.id": self.kafka_oauth_client_id,
                "sasl.oauthbearer.client.secret": self.kafka_oauth_client_secret,
                "sasl.oauthbearer.scope": self.kafka_oauth_scope,
                "https.ca.location": self.kafka_oauth_ca_file,
            }
        )


KafkaAddress = KafkaSettings | str
"""Settings, or ``host:port,...`` of brokers that ask for nothing, as the local stack's."""


def address_of(kafka: KafkaAddress) -> str:
    """The brokers as messages name them."""
    return kafka if isinstance(kafka, str) else kafka.kafka_bootstrap_servers


def options_of(kafka: KafkaAddress) -> dict[str, Any]:
    """The connection as librdkafka's configuration."""
    return {"bootstrap.servers": kafka} if isinstance(kafka, str) else kafka.client_options()


def _given(options: dict[str, Any]) -> dict[str, str]:
    """The options that have a value, as text."""
    return {name: _text(value) for name, value in options.items() if value is not None}


def _text(value: Path | SecretStr | str) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
