"""Settings of connections: incomplete ones are refused, secrets come from files, one place constructs Kafka clients."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from tests.support.certificates import Authority
from tests.support.token_server import token_server

from perdure.agent_step.settings import AgentStepSettings
from perdure.chassis import mongo
from perdure.chassis.access import MongodbAccess, OpenSearchAccess
from perdure.chassis.environment import SecretFileError
from perdure.chassis.errors import ConfigurationError, UnavailableError
from perdure.chassis.kafka.settings import KafkaSettings, options_of
from perdure.chassis.opensearch import OpenSearch
from perdure.chassis.service import settings_problem
from perdure.chassis.settings import ServiceSettings
from perdure.indexer.credentials import Tokens, broker_credentials
from perdure.validator.connections import connections
from perdure.validator.settings import ValidatorSettings

SERVICES = Path(__file__).parents[2] / "services" / "perdure"
CLIENTS = {"Producer", "Consumer", "AdminClient", "SerializingProducer", "DeserializingConsumer", "AIOProducer"}
PASSWORD = {"kafka_sasl_username": "me", "kafka_sasl_password": "secret"}
OAUTH = {
    "kafka_oauth_token_url": "https://id.example.com/token",
    "kafka_oauth_client_id": "me",
    "kafka_oauth_client_secret": "secret",
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


def test_only_one_module_constructs_kafka_clients() -> None:
    """A client that is made elsewhere would be without the security of the connection."""
    constructing = set()
    for path in SERVICES.rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "confluent_kafka"
            for alias in node.names
            if alias.name in CLIENTS
        }
        whole = any(
            alias.name.partition(".")[0] == "confluent_kafka"
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        )
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if whole or names & called:
            constructing.add(str(path.relative_to(SERVICES)))
    assert constructing == {"chassis/kafka/clients.py"}


def test_no_service_passes_the_address_of_the_brokers_alone() -> None:
    """An address alone stands for brokers that ask for nothing."""
    passing = {
        str(path.relative_to(SERVICES))
        for path in SERVICES.rglob("*.py")
        if ".kafka_bootstrap_servers" in path.read_text()
    }
    assert passing == {"chassis/kafka/settings.py", "indexer/stream.py"}, (
        "Faust is given its credentials beside the address"
    )


def test_passwords_and_certificates_reach_librdkafka(authority: Authority) -> None:
    cert_file, key_file = authority.issue("me")
    settings = KafkaSettings(
        kafka_bootstrap_servers="k:9093",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-256",
        kafka_ssl_ca_file=authority.ca_file,
        kafka_ssl_cert_file=cert_file,
        kafka_ssl_key_file=key_file,
        kafka_ssl_key_password=SecretStr("opens the key"),
        **PASSWORD,
    )
    assert settings.client_options() == {
        "bootstrap.servers": "k:9093",
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "me",
        "sasl.password": "secret",
        "ssl.ca.location": str(authority.ca_file),
        "ssl.certificate.location": str(cert_file),
        "ssl.key.location": str(key_file),
        "ssl.key.password": "opens the key",
        "ssl.endpoint.identification.algorithm": "https",
    }


def test_tokens_are_asked_for_by_librdkafka() -> None:
    settings = KafkaSettings(
        kafka_security_protocol="SASL_SSL", kafka_sasl_mechanism="OAUTHBEARER", kafka_oauth_scope="kafka", **OAUTH
    )
    options = settings.client_options()
    assert options["sasl.oauthbearer.method"] == "oidc"
    assert options["sasl.oauthbearer.token.endpoint.url"] == OAUTH["kafka_oauth_token_url"]
    assert (options["sasl.oauthbearer.client.id"], options["sasl.oauthbearer.client.secret"]) == ("me", "secret")
    assert options["sasl.oauthbearer.scope"] == "kafka"
    assert "sasl.password" not in options


def test_brokers_that_ask_for_nothing_need_an_address_only() -> None:
    assert options_of("k:9092") == {"bootstrap.servers": "k:9092"}
    assert KafkaSettings().client_options() == {
        "bootstrap.servers": "127.0.0.1:19092",
        "security.protocol": "plaintext",
    }
    assert broker_credentials(KafkaSettings()) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kafka_security_protocol": "SASL_SSL"}, "needs PERDURE_KAFKA_SASL_MECHANISM"),
        ({"kafka_sasl_mechanism": "PLAIN", **PASSWORD}, "would not be used"),
        (
            {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": "PLAIN", "kafka_sasl_username": "me"},
            "PLAIN needs PERDURE_KAFKA_SASL_PASSWORD",
        ),
        (
            {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER", **PASSWORD},
            "OAUTHBEARER needs PERDURE_KAFKA_OAUTH_TOKEN_URL",
        ),
        ({"kafka_ssl_ca_file": __file__}, "does not encrypt"),
        ({"kafka_security_protocol": "SSL", "kafka_ssl_cert_file": __file__}, "needs both"),
    ],
)
def test_settings_that_would_be_less_secure_than_meant_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        KafkaSettings(**given)
    problem = settings_problem(raised.value)
    assert said in problem
    assert "PERDURE_:" not in problem


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_faust_proves_who_it_is_by_the_same_settings(authority: Authority, mechanism: str) -> None:
    settings = KafkaSettings(
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism=mechanism,
        kafka_ssl_ca_file=authority.ca_file,
        **PASSWORD,
    )
    credentials = broker_credentials(settings)
    assert credentials.protocol.value == "SASL_SSL"
    assert credentials.mechanism.value == mechanism
    assert (credentials.username, credentials.password) == ("me", "secret")
    assert credentials.ssl_context.check_hostname


def by_token(url: str) -> KafkaSettings:
    return KafkaSettings(
        kafka_security_protocol="SASL_SSL", kafka_sasl_mechanism="OAUTHBEARER", **OAUTH | {"kafka_oauth_token_url": url}
    )


async def test_faust_asks_for_a_token_once_for_most_of_its_life() -> None:
    with token_server("me") as server:
        tokens = Tokens(by_token(server.url))
        assert {await tokens.token(), await tokens.token()} == {server.token()}
        assert len(server.asked) == 1
        server.lasts_s = 0
        short = Tokens(by_token(server.url))
        await short.token()
        await short.token()
        assert len(server.asked) == 3, "one that has expired is not used again"


async def test_a_token_address_that_refuses_is_named() -> None:
    with token_server("me") as server:
        server.status = 401
        with pytest.raises(UnavailableError, match="401"):
            await Tokens(by_token(server.url)).token()


def test_a_secret_comes_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uri, options = tmp_path / "uri", tmp_path / "options"
    uri.write_text("mongodb://me:p%40ss@db/perdure\n")
    options.write_text('{"aws_secret_access_key": "secret"}\n')
    monkeypatch.setenv("PERDURE_MONGODB_URI_FILE", str(uri))
    monkeypatch.setenv("PERDURE_ARCHIVE_OPTIONS_FILE", str(options))
    settings = ServiceSettings()
    assert settings.mongodb.uri == "mongodb://me:p%40ss@db/perdure"
    assert settings.archive_store_options == {"aws_secret_access_key": "secret"}


def test_a_file_that_cannot_be_read_and_two_sources_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PERDURE_MONGODB_URI_FILE", str(tmp_path / "gone"))
    with pytest.raises(SecretFileError, match=r"PERDURE_MONGODB_URI_FILE.*cannot be read: No such file") as raised:
        ServiceSettings()
    assert "PERDURE_MONGODB_URI_FILE" in settings_problem(raised.value)
    (tmp_path / "gone").write_text("mongodb://a/b")
    monkeypatch.setenv("PERDURE_MONGODB_URI", "mongodb://a/b")
    with pytest.raises(SecretFileError, match="both set"):
        ServiceSettings()


def test_settings_show_no_password() -> None:
    secret = "do-not-show"
    settings = AgentStepSettings(
        mongodb_uri=f"mongodb://me:{secret}@db/perdure",
        opensearch_url=f"https://me:{secret}@search:9200",
        opensearch_api_key=secret,
        archive_options={"aws_secret_access_key": secret},
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="PLAIN",
        kafka_sasl_username="me",
        kafka_sasl_password=secret,
    )
    assert secret not in repr(settings)
    assert secret not in repr(settings.mongodb)
    assert secret not in repr(settings.opensearch)
    assert secret not in str(settings.model_dump())


def test_mongodb_is_told_of_certificates_that_the_uri_does_not_name(authority: Authority) -> None:
    access = MongodbAccess("mongodb://db/perdure", authority.ca_file, authority.issue_joined("me"))
    client = mongo.connect_blocking(access, connect=False)
    assert access.options()["tls"] is True
    assert client.options.pool_options._ssl_context is not None
    assert MongodbAccess("mongodb://db/perdure").options() == {}
    client.close()


def test_an_unusable_certificate_of_opensearch_is_said_at_the_start(tmp_path: Path, authority: Authority) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with pytest.raises(ConfigurationError, match="PERDURE_OPENSEARCH_CA_FILE"):
        OpenSearch(OpenSearchAccess("https://search:9200", ca_file=broken))


async def connection_of(client: OpenSearch) -> Any:
    await client._client.transport._async_init()
    (connection,) = client._client.transport.connection_pool.connections
    return connection


async def test_opensearch_is_told_who_asks(authority: Authority) -> None:
    cert_file, key_file = authority.issue("me")
    by_key = OpenSearch(OpenSearchAccess("https://search:9200", authority.ca_file, cert_file, key_file, api_key="abc"))
    connection = await connection_of(by_key)
    assert connection.headers["authorization"] == "ApiKey abc"
    by_password = OpenSearch("https://me:p%40ss@search:9200")
    connection = await connection_of(by_password)
    assert connection.headers["authorization"].startswith("Basic ")
    await by_key.close()
    await by_password.close()


def test_each_connection_of_the_validator_has_certificates_of_its_own(authority: Authority) -> None:
    cert_file, key_file = authority.issue("me")
    own = {"url": "https://shop:9200", "cert_file": str(cert_file), "key_file": str(key_file), "api_key": "k"}
    settings = ValidatorSettings(
        opensearch_ca_file=authority.ca_file,
        validator_connections={
            "crm": {"url": "mongodb://crm/crm", "ca_file": str(authority.ca_file)},
            "old": "mongodb://old/old",
            "shop": own,
            "own": own | {"ca_file": str(cert_file)},
        },
    )
    mongodb, opensearch = connections(settings)
    assert mongodb == {
        "crm": MongodbAccess("mongodb://crm/crm", authority.ca_file),
        "old": MongodbAccess("mongodb://old/old"),
    }
    assert opensearch["shop"] == OpenSearchAccess("https://shop:9200", authority.ca_file, cert_file, key_file, "k")
    assert opensearch["own"].ca_file == cert_file


def test_a_connection_with_a_field_of_the_other_kind_is_refused(authority: Authority) -> None:
    settings = ValidatorSettings(validator_connections={"crm": {"url": "mongodb://crm/crm", "api_key": "k"}})
    with pytest.raises(ConfigurationError, match="crm has no use for api_key"):
        connections(settings)
