"""docker-compose.yml without an engine: it is valid, says only what our settings read, and what it says works.

Each of our services is started with the very command, environment and health check of the file; only the addresses and
ports are replaced by those of the test's servers, and the mounted project by the folder that is mounted.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from tests.support.polling import until_blocking

from perdure.chassis.settings import ServiceSettings
from perdure.local.resources import free_port
from perdure.local.services import available_services
from perdure.local.stack import Stack
from perdure.schemas import dashboard_objects, dashboards

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("perdure:")}
ONCE = [name for name, service in SERVICES.items() if service["restart"] == "no"]
"""Jobs that end."""
LASTING = [name for name in OURS if "healthcheck" in OURS[name]]
DEADLINE_S = 90.0


def module_of(service: Mapping[str, Any]) -> str:
    """``perdure.gateway`` of ``python -m perdure.gateway``; the command line uses the shared settings."""
    command = service["command"]
    return str(command[2]) if command[:2] == ["python", "-m"] else "perdure.chassis"


def settings_of(service: Mapping[str, Any]) -> type[ServiceSettings]:
    module = importlib.import_module(f"{module_of(service)}.settings")
    found = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, ServiceSettings)]
    return max(found, key=lambda c: len(c.__mro__))


def test_it_follows_the_compose_specification() -> None:
    schema = json.loads((ROOT / "tests" / "contract" / "third_party" / "compose-spec.json").read_text())
    errors = [
        f"{'/'.join(map(str, e.path))}: {e.message}" for e in jsonschema.Draft7Validator(schema).iter_errors(COMPOSE)
    ]
    assert errors == []


def test_it_has_every_service_that_exists() -> None:
    started = {module_of(service).removeprefix("perdure.") for service in OURS.values()}
    assert started - {"chassis"} == set(available_services())


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_has_a_version(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9./-]+:\d+\.\d+\.\d+", SERVICES[name]["image"])


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    service = OURS[name]
    fields = settings_of(service).model_fields
    for variable in service["environment"]:
        assert variable.startswith("PERDURE_")
        assert variable.removeprefix("PERDURE_").lower() in fields, f"{name}: nothing reads {variable}"
    values = {k.removeprefix("PERDURE_").lower(): v for k, v in service["environment"].items()}
    settings_of(service).model_validate(values)


@pytest.mark.parametrize("name", SERVICES)
def test_everything_is_limited_and_checked(name: str) -> None:
    service = SERVICES[name]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert name in ONCE or service["healthcheck"]["test"]
    for other, how in service.get("depends_on", {}).items():
        expected = "service_completed_successfully" if other in ONCE else "service_healthy"
        assert how["condition"] == expected
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "servers without passwords are not for the network"


@pytest.mark.parametrize("name", OURS)
def test_ours_run_without_rights(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "curl" not in " ".join(service.get("healthcheck", {}).get("test", []))


def test_the_archive_is_on_a_volume_that_its_user_may_write_to() -> None:
    service = OURS["scheduler"]
    folder = service["environment"]["PERDURE_ARCHIVE_URL"]
    (mounted,) = service["volumes"]
    name, _, how = mounted.partition(f":{folder}:")
    assert (name in COMPOSE["volumes"], how) == (True, "rw")
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    assert f"RUN install --directory --owner=10001 --group=10001 {folder}" in lines
    assert "--replSet" in SERVICES["mongo"]["command"], "the archive deletes and copies back in transactions"
    assert "replicaSet=" in service["environment"]["PERDURE_MONGODB_URI"]


def test_the_saved_objects_are_loaded() -> None:
    service = SERVICES["dashboards-objects"]
    assert service["image"] == SERVICES["dashboards"]["image"]
    (mounted,) = service["volumes"]
    folder, place, how = mounted.split(":")
    assert how == "ro"
    file = next(part for part in service["command"] if part.startswith("file=@")).removeprefix("file=@")
    assert (ROOT / folder / Path(file).relative_to(place)).is_file()
    assert (ROOT / dashboards.FILE).read_bytes() == dashboards.generated_files()[dashboards.FILE]
    assert f":{dashboard_objects.VERSION}" in service["image"]
    address = urlsplit(service["command"][-1])
    assert (address.hostname, address.path) == ("dashboards", "/api/saved_objects/_import")
    assert "osd-xsrf: true" in service["command"]


def test_the_image_is_built_from_what_is_there() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [part for line in lines if line.startswith("COPY") and "--from" not in line for part in line.split()[1:-1]]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for path in copied:
        assert (ROOT / path).exists()
        assert f"!{path}" in ignored
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users[-1:] == ["10001:10001"]
    assert all(re.search(r":\d+\.\d+\.\d+-", line) for line in lines if line.startswith("FROM"))


class Place:
    """Where a service of the file runs here: addresses replaced, everything else as the file says."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        addresses = stack.environment()
        self.folder = folder
        self._replace = {
            "kafka:9092": addresses["PERDURE_KAFKA_BOOTSTRAP_SERVERS"],
            "mongodb://mongo:27017/perdure?replicaSet=rs0": addresses["PERDURE_MONGODB_URI"],
            "http://opensearch:9200": addresses["PERDURE_OPENSEARCH_URL"],
        }
        self._ports = {port: str(free_port()) for port in ("8123", "8124", "8125", "8126", "8127")}

    def environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        mounted = {
            target: source
            for volume in service.get("volumes", [])
            for source, target, _ in [re.sub(r"\$\{AGENT_PROJECT:-(.*)\}", r"\1", volume).split(":")]
        }
        found = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(self.folder)}
        given = {name: value for name, value in service["environment"].items() if value is not None}
        for name, value in given.items():
            text = self._replace.get(value, self._ports.get(value, value))
            for target, source in mounted.items():
                text = text.replace(target, str(ROOT / source if "/" in source else self.volume(source)))
            found[name] = text
        return found

    def volume(self, name: str) -> Path:
        """Where a named volume is, beside the root file system."""
        return self.folder.with_name(f"{self.folder.name}-{name}")

    def check(self, service: Mapping[str, Any]) -> list[str]:
        kind, *command = service["healthcheck"]["test"]
        assert kind == "CMD"
        pattern = re.compile("|".join(self._ports))
        return [pattern.sub(lambda found: self._ports[found[0]], part) for part in command]


@pytest.fixture(scope="module")
def place(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Servers whose topics were made by the one-shot job of the file."""
    found = Place(stack, tmp_path_factory.mktemp("compose"))
    job = OURS["topics"]
    done = subprocess.run(
        job["command"],
        env=found.environment(job),
        cwd=found.folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture
def running(place: Place, request: pytest.FixtureRequest) -> Iterator[tuple[dict[str, Any], subprocess.Popen[bytes]]]:
    service = OURS[request.param]
    log = place.folder.with_name(f"{request.param}.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            service["command"], env=place.environment(service), cwd=place.folder, stdout=output, stderr=output
        )
    try:
        yield service, process
    finally:
        process.terminate()
        try:
            status = process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        print(log.read_text())
    assert status == 0, f"{request.param} ended with {status} after SIGTERM"


@pytest.mark.parametrize("running", LASTING, indirect=True)
def test_it_starts_as_the_file_says_and_becomes_healthy(
    running: tuple[dict[str, Any], subprocess.Popen[bytes]], place: Place
) -> None:
    service, process = running

    def check() -> subprocess.CompletedProcess[bytes]:
        assert process.poll() is None, f"it ended with {process.returncode}"
        return subprocess.run(
            place.check(service), env=place.environment(service), cwd=place.folder, capture_output=True, check=False
        )

    until_blocking(check, "the service is healthy", DEADLINE_S, holds=lambda done: done.returncode == 0, every_s=0.2)
    assert list(place.folder.iterdir()) == [], "the root file system is read-only: nothing may be written here"


def test_secrets_reach_the_services_that_use_them_and_no_other() -> None:
    having = {
        secret: {module_of(service) for service in OURS.values() if secret in service["environment"]}
        for secret in ("PERDURE_LINK_SECRET", "PERDURE_SIGNING_SECRET", "PERDURE_PUBLIC_URL", "PERDURE_MAIL_DOMAIN")
    }
    assert having == {
        "PERDURE_LINK_SECRET": {"perdure.gateway", "perdure.notifier"},
        "PERDURE_SIGNING_SECRET": {"perdure.agent_step", "perdure.validator", "perdure.scheduler"},
        "PERDURE_PUBLIC_URL": {"perdure.gateway", "perdure.notifier"},
        "PERDURE_MAIL_DOMAIN": {"perdure.gateway", "perdure.notifier", "perdure.agent_step"},
    }
