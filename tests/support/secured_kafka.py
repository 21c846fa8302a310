"""A Kafka broker that asks everybody who they are: TLS, SASL and access control lists, the real server.

Two listeners: ``SASL_SSL`` (PLAIN, SCRAM, OAUTHBEARER with tokens that nobody signed) and ``SSL`` with client certificates. Only
``admin`` and the broker itself may do anything without a grant.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from pydantic import SecretStr
from tests.support.certificates import Authority
from tests.support.polling import until_blocking

from perdure.chassis.kafka.clients import new_admin
from perdure.chassis.kafka.settings import KafkaSettings
from perdure.cli.grants import acls
from perdure.local import kafka
from perdure.local.display import SilentDisplay
from perdure.local.fetch import fetch_jars
from perdure.local.java import java_home, jvm_flags
from perdure.local.pins import load_pins
from perdure.local.resources import free_port
from perdure.local.settings import LocalSettings
from perdure.schemas.grants import SERVICES

USERS = ("admin", "gateway", "agent-step", "validator", "notifier", "indexer", "scheduler", "stranger")
_CLASSES = "org.apache.kafka.common.security"
_SECURITY = """\
listeners=SASL_SSL://127.0.0.1:{sasl},SSL://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_SSL://127.0.0.1:{sasl},SSL://127.0.0.1:{tls}
listener.security.protocol.map=SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:SSL
inter.broker.listener.name=SSL
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
listener.name.ssl.ssl.client.auth=required
listener.name.controller.ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^.*CN=([^,]+).*$/$1/,DEFAULT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.plain.sasl.jaas.config={classes}.plain.PlainLoginModule required {users};
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={classes}.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={classes}.scram.ScramLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config={classes}.oauthbearer.OAuthBearerLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:broker
"""


def password_of(user: str) -> str:
    """What a user proves who they are with."""
    return f"{user}-secret"


class SecuredKafka:
    """A running broker, or several."""

    def __init__(self, authority: Authority, port: int, tls_port: int, *others: int) -> None:
        self.authority = authority
        self.address = ",".join(f"127.0.0.1:{one}" for one in (port, *others))
        self.tls_address = f"127.0.0.1:{tls_port}"

    def environment(self, user: str, mechanism: str = "SCRAM-SHA-512", **more: str) -> dict[str, str]:
        """The variables by which a service connects as a user."""
        return {
            "PERDURE_KAFKA_BOOTSTRAP_SERVERS": self.address,
            "PERDURE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "PERDURE_KAFKA_SASL_MECHANISM": mechanism,
            "PERDURE_KAFKA_SASL_USERNAME": user,
            "PERDURE_KAFKA_SASL_PASSWORD": password_of(user),
            "PERDURE_KAFKA_SSL_CA_FILE": str(self.authority.ca_file),
            **more,
        }

    def settings(self, user: str, mechanism: str = "SCRAM-SHA-512", **more: Any) -> KafkaSettings:
        """The settings by which a client connects as a user."""
        return KafkaSettings(**settings_of(self.environment(user, mechanism)) | more)

    def by_token(self, token_url: str) -> KafkaSettings:
        """The settings of a client that asks an authorization server for its tokens."""
        return KafkaSettings(
            kafka_bootstrap_servers=self.address,
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_mechanism="OAUTHBEARER",
            kafka_ssl_ca_file=self.authority.ca_file,
            kafka_oauth_token_url=token_url,
            kafka_oauth_client_id="client",
            kafka_oauth_client_secret=SecretStr("client-secret"),
            kafka_oauth_scope="kafka",
        )

    def by_certificate(self, name: str) -> KafkaSettings:
        """The settings of a client that shows a certificate."""
        cert_file, key_file = self.authority.issue(name)
        return KafkaSettings(
            kafka_bootstrap_servers=self.tls_address,
            kafka_security_protocol="SSL",
            kafka_ssl_ca_file=self.authority.ca_file,
            kafka_ssl_cert_file=cert_file,
            kafka_ssl_key_file=key_file,
        )

    def admin(self) -> AdminClient:
        """A client that may do everything."""
        return new_admin(self.settings("admin", "PLAIN"), "test")

    def brokers(self) -> int:
        """How many brokers are known; 0 while none answers."""
        try:
            return len(self.admin().list_topics(timeout=2).brokers)
        except KafkaException:
            return 0

    def grant(self, bindings: Iterable[AclBinding]) -> None:
        """Add grants; returns when the broker knows them."""
        admin = self.admin()  # its futures fail when nobody refers to it any more
        for future in admin.create_acls(list(bindings)).values():
            future.result(30)

    def add_scram(self, users: Iterable[str]) -> None:
        """Let users prove who they are by SCRAM, too."""
        admin = self.admin()
        for kind in (
            ScramMechanism.SCRAM_SHA_256,
            ScramMechanism.SCRAM_SHA_512,
        ):  # the broker takes one of a user at a time
            info = ScramCredentialInfo(kind, 4096)
            wanted = [UserScramCredentialUpsertion(user, info, password_of(user).encode()) for user in users]
            for future in admin.alter_user_scram_credentials(wanted).values():
                future.result(30)


def bindings(name: str) -> list[AclBinding]:
    """The access control lists that ``perdure grants print`` gives a service."""
    return [
        AclBinding(
            ResourceType[kind.upper()],
            resource,
            ResourcePatternType[pattern.upper()],
            f"User:{name}",
            "*",
            AclOperation[operation],
            AclPermissionType.ALLOW,
        )
        for kind, resource, pattern, operation in acls(name, SERVICES[name])
    ]


def secure(
    properties: Path, authority: Authority, users: Iterable[str], *, sasl: int, tls: int, controller: int
) -> None:
    """Change a broker's settings: listeners with TLS alone, who connects is asked for a password or a certificate."""
    kept = [line for line in properties.read_text().splitlines() if "listener" not in line.partition("=")[0]]
    security = _SECURITY.format(
        sasl=sasl,
        tls=tls,
        controller=controller,
        keystore=authority.issue_joined("broker"),
        truststore=authority.ca_file,
        classes=_CLASSES,
        users=" ".join(f'user_{user}="{password_of(user)}"' for user in users),
    )
    kept.append("controller.listener.names=CONTROLLER")
    properties.write_text("\n".join(kept) + "\n" + security)


def settings_of(environment: Mapping[str, str]) -> dict[str, Any]:
    """Variables as arguments of settings."""
    return {name.removeprefix("PERDURE_").lower(): value for name, value in environment.items()}


@contextmanager
def secured_kafka(folder: Path, users: Iterable[str] = USERS) -> Iterator[SecuredKafka]:
    """A broker with these users, by PLAIN and by SCRAM, for as long as the block lasts."""
    authority = Authority(folder / "certificates")
    settings = LocalSettings()
    sasl, tls, controller = free_port(), free_port(), free_port()
    launch = kafka.prepare(
        folder / "kafka",
        folder / "kafka.log",
        jars=fetch_jars(load_pins()[kafka.NAME], settings.cache_dir.absolute(), SilentDisplay()),
        java_home=java_home(settings),
        port=sasl,
        controller_ports={1: controller},
        heap_mb=320,
        flags=jvm_flags(short_lived=True),
    )
    secure(folder / "kafka" / "server.properties", authority, users, sasl=sasl, tls=tls, controller=controller)
    with launch.log.open("ab") as log:
        process = subprocess.Popen(launch.argv, cwd=launch.cwd, stdout=log, stderr=log)
    broker = SecuredKafka(authority, sasl, tls)
    try:
        until_blocking(
            lambda: process.poll() is None and broker.brokers() > 0,
            "the secured broker answers",
            90,
            explain=lambda: launch.log.read_text()[-2000:],
        )
        broker.add_scram(users)
        yield broker
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
