"""The gateway's own port by TLS: its certificate is verified, replaced while it runs, and the health port stays plain."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from tests.support.certificates import Authority
from tests.support.gateway import NO_OPENSEARCH, fresh_database
from tests.support.polling import until_blocking

from perdure.gateway.http.tls import Certificate
from perdure.gateway.settings import GatewaySettings
from perdure.local.resources import free_port


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


class Running:
    """A gateway process on TLS."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.authority = authority
        self.port, self.health_port = free_port(), free_port()
        self.cert_file, self.key_file = folder / "gateway.pem", folder / "gateway.key"
        self.replace("gateway-1")
        self.pid = 0

    def replace(self, name: str) -> None:
        cert_file, key_file = self.authority.issue(name)
        self.key_file.write_bytes(key_file.read_bytes())
        self.cert_file.write_bytes(cert_file.read_bytes())

    def environment(self, uri: str) -> dict[str, str]:
        return {
            "PERDURE_MONGODB_URI": uri,
            "PERDURE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
            "PERDURE_OPENSEARCH_URL": NO_OPENSEARCH,
            "PERDURE_GATEWAY_PORT": str(self.port),
            "PERDURE_HEALTH_PORT": str(self.health_port),
            "PERDURE_GATEWAY_TLS_CERT_FILE": str(self.cert_file),
            "PERDURE_GATEWAY_TLS_KEY_FILE": str(self.key_file),
        }

    def served(self) -> str:
        """The common name in the certificate that a new connection is shown."""
        context = ssl.create_default_context(cafile=self.authority.ca_file)
        plain = socket.create_connection(("127.0.0.1", self.port), 10)
        with closing(plain), context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped:
            subject = dict(pair[0] for pair in (wrapped.getpeercert() or {})["subject"])
        return str(subject["commonName"])


@pytest.fixture(scope="module")
def gateway(database_uri: str, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("gateway")
    running = Running(folder, authority)
    environment = os.environ | running.environment(fresh_database(database_uri, "tls"))
    log = folder / "gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "perdure.gateway"], env=environment, stdout=output, stderr=output
        )
    running.pid = process.pid
    try:
        until_blocking(lambda: _ready(running), "the gateway is ready", 60, explain=lambda: log.read_text()[-2000:])
        yield running
    finally:
        process.terminate()
        process.wait(30)


def _ready(running: Running) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{running.health_port}/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_clients_verify_the_gateway(gateway: Running) -> None:
    context = ssl.create_default_context(cafile=gateway.authority.ca_file)
    answer = httpx.get(f"https://127.0.0.1:{gateway.port}/info", verify=context, timeout=10)
    assert answer.status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://127.0.0.1:{gateway.port}/ok", timeout=10)


def test_plain_http_and_old_tls_are_refused(gateway: Running) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{gateway.port}/ok", timeout=10)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that it is old is the point
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with closing(socket.create_connection(("127.0.0.1", gateway.port), 10)) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain, server_hostname="127.0.0.1")


def test_the_health_port_is_plain(gateway: Running) -> None:
    for path in ("/ok", "/ready", "/metrics"):
        assert httpx.get(f"http://127.0.0.1:{gateway.health_port}{path}", timeout=10).status_code == 200
    assert httpx.get(f"http://127.0.0.1:{gateway.health_port}/threads", timeout=10).status_code == 404


def test_a_certificate_is_replaced_without_a_restart(gateway: Running) -> None:
    before = gateway.served()
    gateway.replace("gateway-2")
    until_blocking(lambda: gateway.served() == "gateway-2", "the changed file is served", 30)
    assert before != "gateway-2"
    gateway.replace("gateway-3")
    os.kill(gateway.pid, signal.SIGHUP)
    until_blocking(lambda: gateway.served() == "gateway-3", "SIGHUP has the file read", 30)
    gateway.key_file.write_text("no key")
    os.kill(gateway.pid, signal.SIGHUP)
    assert gateway.served() == "gateway-3"


def test_half_a_pair_stays_out_of_use(tmp_path: Path, authority: Authority) -> None:
    running = Running(tmp_path, authority)
    certificate = Certificate(running.cert_file, running.key_file)
    _, other = authority.issue("other")
    running.key_file.write_bytes(other.read_bytes())
    assert not certificate.reload()
    running.replace("next")
    assert certificate.reload()


def test_a_certificate_without_a_key_is_refused(authority: Authority) -> None:
    cert_file, _ = authority.issue("lonely")
    with pytest.raises(ValueError, match="PERDURE_GATEWAY_TLS_KEY_FILE"):
        GatewaySettings(gateway_tls_cert_file=cert_file)
