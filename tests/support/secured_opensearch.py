"""OpenSearch with its security plugin: TLS, users by password or by certificate, roles. The real server and the real plugin.

The plugin builds upon a module of the server, ``rule-framework``, for rules of workload groups alone. The archive that the server
is fetched as has no modules, so the plugin's copy here does not name that one in its descriptor, and has the one library that
comes with the module. The rest is as it was published.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import yaml
from filelock import FileLock
from tests.support.certificates import Authority
from tests.support.polling import until_blocking

from perdure.chassis.access import OpenSearchAccess
from perdure.local import opensearch
from perdure.local.display import SilentDisplay
from perdure.local.fetch import fetch_archive, fetch_jars, is_verified, write_stamp
from perdure.local.java import java_home, jvm_flags
from perdure.local.pins import OPENSEARCH_VERSION, Pin, PinSet, load_pins
from perdure.local.process import Launch
from perdure.local.resources import free_port
from perdure.local.settings import LocalSettings

PLUGIN: Final = PinSet(
    name="opensearch-security",
    version=f"{OPENSEARCH_VERSION}.0",
    files=(
        Pin(
            group="org.opensearch.plugin",
            artifact="opensearch-security",
            version=f"{OPENSEARCH_VERSION}.0",
            packaging="zip",
            size=49263978,
            sha256="fc164c084979f7f793d295b6bca56bf8bee76dafb762adef9f14fa872e0a7596",
        ),
        Pin(
            group="org.apache.commons",
            artifact="commons-collections4",
            version="4.5.0",
            packaging="jar",
            size=898652,
            sha256="00f93263c267be201b8ae521b44a7137271b16688435340bf629db1bac0a5845",
        ),
    ),
)
ADMIN, NODE = "security-admin", "node"
"""Common names of certificates: of who may change users and roles, and of the server."""
_MODULE = "rule-framework"
_CONFIGURATION = """\
plugins.security.ssl.transport.pemcert_filepath: certificates/node.pem
plugins.security.ssl.transport.pemkey_filepath: certificates/node.key
plugins.security.ssl.transport.pemtrustedcas_filepath: certificates/ca.pem
plugins.security.ssl.transport.enforce_hostname_verification: false
plugins.security.ssl.http.enabled: true
plugins.security.ssl.http.clientauth_mode: OPTIONAL
plugins.security.ssl.http.pemcert_filepath: certificates/node.pem
plugins.security.ssl.http.pemkey_filepath: certificates/node.key
plugins.security.ssl.http.pemtrustedcas_filepath: certificates/ca.pem
plugins.security.allow_default_init_securityindex: true
plugins.security.authcz.admin_dn: ['{admin}']
plugins.security.nodes_dn: ['{node}']
"""
_AUTHENTICATION = {
    "certificate": {
        "http_enabled": True,
        "order": 0,
        "http_authenticator": {"type": "clientcert", "config": {"username_attribute": "cn"}, "challenge": False},
        "authentication_backend": {"type": "noop"},
    },
    "password": {
        "http_enabled": True,
        "order": 1,
        "http_authenticator": {"type": "basic", "challenge": True},
        "authentication_backend": {"type": "intern"},
    },
}
_EMPTY = {"internal_users.yml": "internalusers", "roles.yml": "roles", "roles_mapping.yml": "rolesmapping"}


def password_of(user: str) -> str:
    """A user's password. The plugin refuses one that resembles the user's name or is easily guessed."""
    return hashlib.sha256(user.encode()).hexdigest()[:32]


class SecuredOpenSearch:
    """A running node."""

    def __init__(self, authority: Authority, port: int) -> None:
        self.authority = authority
        self.address = f"127.0.0.1:{port}"
        self._admin = authority.issued(ADMIN)

    def url(self, user: str) -> str:
        """The address by which a user connects."""
        return f"https://{user}:{password_of(user)}@{self.address}"

    def access(self, user: str) -> OpenSearchAccess:
        """How a user connects by password."""
        return OpenSearchAccess(self.url(user), self.authority.ca_file)

    def by_certificate(self, user: str) -> OpenSearchAccess:
        """How a user connects by certificate."""
        cert_file, key_file = self.authority.issue(user)
        return OpenSearchAccess(f"https://{self.address}", self.authority.ca_file, cert_file, key_file)

    def environment(self, user: str) -> dict[str, str]:
        """The variables by which a service connects as a user."""
        return {"PERDURE_OPENSEARCH_URL": self.url(user), "PERDURE_OPENSEARCH_CA_FILE": str(self.authority.ca_file)}

    def admin(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Ask as who may do everything."""
        with httpx.Client(base_url=f"https://{self.address}/", verify=self.admin_context(), timeout=30) as http:
            return http.request(method, path, json=body)

    def admin_context(self) -> ssl.SSLContext:
        """How who may do everything connects."""
        context = ssl.create_default_context(cafile=self.authority.ca_file)
        context.load_cert_chain(*self._admin)
        return context

    def answers(self) -> bool:
        """Whether users and roles are read and the node serves."""
        try:
            read = self.admin("GET", "_plugins/_security/health").json()["status"] == "UP"
            return read and self.admin("GET", "_cluster/health").json()["status"] in ("green", "yellow")
        except (httpx.TransportError, ValueError, KeyError):
            return False

    def add(self, user: str) -> None:
        """Add a user with a password."""
        path = f"_plugins/_security/api/internalusers/{user}"
        self._done(self.admin("PUT", path, {"password": password_of(user)}))

    def run(self, lines: Iterable[str]) -> None:
        """Carry out what ``perdure grants print --format opensearch`` prints: a request's first line, then its body."""
        wanted = [line for line in lines if not line.startswith("#")]
        for first, body in zip(wanted[::2], wanted[1::2], strict=True):
            method, path = first.split(" ")
            self._done(self.admin(method, path, orjson.loads(body)))

    @staticmethod
    def _done(answer: httpx.Response) -> None:
        assert answer.is_success, f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text}"


def prepare(folder: Path, log: Path, authority: Authority, *, port: int, heap_mb: int) -> tuple[Launch, Path]:
    """Write the configuration and say how to start, and where the data really is."""
    settings = LocalSettings()
    home, pins = _home(settings.cache_dir.absolute())
    launch, data = opensearch.prepare(
        folder,
        log,
        home=home,
        pins=pins,
        java_home=java_home(settings),
        port=port,
        heap_mb=heap_mb,
        flags=jvm_flags(short_lived=True),
    )
    _secure(data / "config", authority)
    if launch.account is not None:
        for path in [data / "config", *(data / "config").rglob("*")]:
            os.chown(path, launch.account.uid, launch.account.gid)
    return launch, data


@contextmanager
def secured_opensearch(folder: Path) -> Iterator[SecuredOpenSearch]:
    """A node without users, for as long as the block lasts."""
    authority, port = Authority(folder / "certificates"), free_port()
    launch, data = prepare(folder / "opensearch", folder / "opensearch.log", authority, port=port, heap_mb=384)
    account = {} if launch.account is None else {"user": launch.account.uid, "group": launch.account.gid}
    with launch.log.open("ab") as log:
        process = subprocess.Popen(
            launch.argv, cwd=launch.cwd, env={**os.environ, **launch.env}, stdout=log, stderr=log, **account
        )
    node = SecuredOpenSearch(authority, port)
    try:
        until_blocking(
            lambda: process.poll() is None and node.answers(),
            "the secured node answers",
            150,
            explain=lambda: launch.log.read_text()[-3000:],
            every_s=0.3,
        )
        yield node
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(data, ignore_errors=True)


def _home(cache: Path) -> tuple[Path, PinSet]:
    """The server with the plugin, in the cache, and the files of both."""
    display, server = SilentDisplay(), load_pins()[opensearch.NAME]
    both = PinSet(name="opensearch-secured", version=server.version, files=(*server.files, *PLUGIN.files))
    home = cache / f"{both.name}-{both.version}"
    archive = fetch_archive(server, cache, display)
    plugin = fetch_jars(PLUGIN, cache, display)
    with FileLock(cache / "locks" / f"{both.name}.lock"):
        if not is_verified(home, both):
            partial = cache / "partial" / both.name
            for leftover in (partial, home):
                shutil.rmtree(leftover, ignore_errors=True)
            shutil.copytree(archive, partial)
            _install(plugin, partial / "plugins" / PLUGIN.name)
            write_stamp(partial, both, [path for path in sorted(partial.rglob("*")) if path.is_file()])
            partial.rename(home)
    return home, both


def _install(fetched: Path, folder: Path) -> None:
    plugin, library = (fetched / file.filename for file in PLUGIN.files)
    with zipfile.ZipFile(plugin) as zipped:
        zipped.extractall(folder)
    shutil.copy2(library, folder)
    descriptor = folder / "plugin-descriptor.properties"
    said = descriptor.read_text()
    assert f",{_MODULE}\n" in said, f"{PLUGIN.name} does not name {_MODULE} any more: take this step out"
    descriptor.write_text(said.replace(f",{_MODULE}\n", "\n"))
    (folder / "config").rename(folder.parent.parent / "config" / PLUGIN.name)
    shutil.rmtree(folder / "tools")


def _secure(configuration: Path, authority: Authority) -> None:
    """Certificates, who is asked how, and no users; for the rest, what comes with the plugin."""
    certificates = configuration / "certificates"
    certificates.mkdir(exist_ok=True)
    cert_file, key_file = authority.issued(NODE)
    authority.issued(ADMIN)
    for source, name in ((cert_file, "node.pem"), (key_file, "node.key"), (authority.ca_file, "ca.pem")):
        shutil.copy(source, certificates / name)
    with (configuration / "opensearch.yml").open("a") as file:
        file.write(_CONFIGURATION.format(admin=authority.subject_of(ADMIN), node=authority.subject_of(NODE)))
    published = _home(LocalSettings().cache_dir.absolute())[0] / "config" / PLUGIN.name
    initial = configuration / PLUGIN.name
    shutil.copytree(published, initial, dirs_exist_ok=True)
    for name, kind in _EMPTY.items():
        (initial / name).write_text(yaml.safe_dump({"_meta": {"type": kind, "config_version": 2}}))
    dynamic = {"http": {"anonymous_auth_enabled": False}, "authc": _AUTHENTICATION}
    (initial / "config.yml").write_text(
        yaml.safe_dump({"_meta": {"type": "config", "config_version": 2}, "config": {"dynamic": dynamic}})
    )
