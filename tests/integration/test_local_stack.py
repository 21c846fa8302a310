"""The local stack on its own real servers: killed, paused, restarted, removed, seen from other processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from tests.support.polling import until_blocking

from perdure.chassis.mongo import connect_blocking
from perdure.local.errors import LocalError, PortInUseError, ServerFailedError, TooLittleSpaceError
from perdure.local.probes import probe_mongodb
from perdure.local.services import ServiceProcess, Services
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack

SERVICE = """
import http.server, os, pathlib
pathlib.Path("started").open("a").write(f"{os.getpid()}\\n")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
print("serving for", os.environ["PERDURE_MONGODB_URI"], flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PERDURE_HEALTH_PORT"])), Handler).serve_forever()
"""


def _http(method: str, url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.load(response)


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    """All three, not shared with other modules: the tests here kill them."""
    local = {"kafka_bootstrap_servers": None, "mongodb_uri": None, "opensearch_url": None}
    with Stack(LocalSettings().model_copy(update=local), ephemeral=True) as stack:
        yield stack


@pytest.fixture
def kept_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Make stacks that keep their data in the test's folder; stopped at the end, whatever happened."""
    stacks: list[Stack] = []

    def make(**changes: Any) -> Stack:
        settings = LocalSettings(data_dir=tmp_path / "data").with_free_ports()
        stacks.append(Stack(settings.model_copy(update=changes)))
        return stacks[-1]

    yield make
    for stack in stacks:
        stack.stop()


def test_kafka_keeps_its_data_through_kill_9(servers: Stack) -> None:
    bootstrap = servers.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(30)
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    producer.produce("kept", b"before", key=b"1")
    assert producer.flush(30) == 0
    before = servers.state.read().records["kafka"].pid
    servers.stop_server("kafka", kill=True)
    servers.start_server("kafka")
    assert servers.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"] == bootstrap
    assert servers.state.read().records["kafka"].pid != before
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.subscribe(["kept"])
    message = until_blocking(lambda: consumer.poll(1.0), "the message from before")
    consumer.close()
    assert message.error() is None
    assert message.value() == b"before"


def test_mongodb_keeps_acknowledged_writes_through_kill_9(servers: Stack) -> None:
    uri = servers.environment()["PERDURE_MONGODB_URI"]
    with connect_blocking(uri) as client:
        client["kept"]["documents"].insert_many([{"_id": number} for number in range(100)])
        servers.stop_server("mongodb", kill=True)
        servers.start_server("mongodb")
        assert client["kept"]["documents"].count_documents({}) == 100


def test_opensearch_keeps_its_data_through_kill_9(servers: Stack) -> None:
    url = servers.environment()["PERDURE_OPENSEARCH_URL"]
    _http("PUT", f"{url}/kept")
    _http("PUT", f"{url}/kept/_doc/1?refresh=true", {"word": "before"})
    servers.stop_server("opensearch", kill=True)
    servers.start_server("opensearch")
    assert _http("GET", f"{url}/kept/_doc/1")["_source"] == {"word": "before"}


def test_status_shows_every_server(servers: Stack) -> None:
    found = {status.name: status for status in servers.status()}
    assert {name: status.state for name, status in found.items()} == dict.fromkeys(
        ("kafka", "mongodb", "opensearch"), "ready"
    )
    assert all(status.memory_mb and status.cpu_s and status.log for status in found.values())


def test_starting_again_changes_nothing(servers: Stack) -> None:
    before = servers.state.read()
    servers.start()
    assert servers.state.read() == before


def test_the_log_of_a_server_can_be_read(servers: Stack) -> None:
    assert any("listening" in line for line in servers.log("mongodb").last(100))
    with pytest.raises(LocalError, match=r"nonsense was not started in .*; known there: .*kafka"):
        servers.log("nonsense")


def test_a_paused_server_answers_nothing_until_resumed(own_mongodb: Stack) -> None:
    port = own_mongodb.state.read().records["mongodb"].ports["port"]
    own_mongodb.pause("mongodb")
    until_blocking(lambda: own_mongodb.status()[0].state == "paused", "the server is paused")
    assert probe_mongodb("127.0.0.1", port) is not None
    own_mongodb.resume("mongodb")
    assert probe_mongodb("127.0.0.1", port) is None


def test_a_record_left_by_a_crash_is_seen_as_stale(kept_stack: Callable[..., Stack]) -> None:
    first = kept_stack()
    first.start(["mongodb"])
    record = first.state.read().records["mongodb"]
    os.killpg(record.pid, signal.SIGKILL)
    until_blocking(lambda: not record.running, "the server is gone")
    # The pid now belongs to somebody else: this very process, with another creation time.
    first.state.put(record.model_copy(update={"pid": os.getpid()}))
    assert first.status()[0].state == "ended"
    second = kept_stack()
    second.start(["mongodb"])
    assert second.status()[0].state == "ready"
    second.stop()
    assert second.status() == []


def test_a_port_in_use_is_said_before_anything_starts(kept_stack: Callable[..., Stack]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        stack = kept_stack(local_mongodb_port=taken)
        with pytest.raises(PortInUseError, match=f"port {taken} .*pid {os.getpid()}.*PERDURE_LOCAL_MONGODB_PORT"):
            stack.start(["mongodb"])
    assert stack.status() == []


def test_too_little_memory_or_disk_is_said_before_anything_starts(kept_stack: Callable[..., Stack]) -> None:
    with pytest.raises(TooLittleSpaceError, match="too little memory: 99999999 MB needed"):
        kept_stack(local_min_free_memory_mb=99_999_999).start(["mongodb"])
    with pytest.raises(TooLittleSpaceError, match="too little disk: 99999999 MB needed"):
        kept_stack(local_min_free_disk_mb=99_999_999).start(["mongodb"])


def test_a_server_that_dies_at_start_shows_its_log(kept_stack: Callable[..., Stack]) -> None:
    stack = kept_stack()
    (stack.folder / "kafka" / "data").mkdir(parents=True)
    (stack.folder / "kafka" / "formatted").touch()
    with pytest.raises(ServerFailedError, match=r"kafka ended during start with exit code 1.*logs/kafka\.log"):
        stack.start(["kafka"])


def test_an_address_replaces_a_server(own_mongodb: Stack, kept_stack: Callable[..., Stack]) -> None:
    uri = own_mongodb.environment()["PERDURE_MONGODB_URI"]
    stack = kept_stack(mongodb_uri=uri)
    stack.start(["mongodb"])
    assert stack.environment() == {"PERDURE_MONGODB_URI": uri}
    assert [status.state for status in stack.status()] == ["external"]
    stack.stop()
    assert own_mongodb.status()[0].state == "ready"


def test_an_ephemeral_stack_is_removed_at_stop() -> None:
    stack = Stack(ephemeral=True)
    stack.start(["mongodb"])
    pid = stack.state.read().records["mongodb"].pid
    stack.stop()
    assert not stack.folder.exists()
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_ephemeral_stack_is_removed_when_its_owner_is_killed(number: signal.Signals) -> None:
    code = (
        "import time; from perdure.local.stack import Stack; stack = Stack(ephemeral=True); stack.start(['mongodb']);"
        "print(stack.folder, stack.state.read().records['mongodb'].pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        folder, pid = owner.stdout.readline().split()
        owner.send_signal(number)
        owner.wait(30)
    until_blocking(
        lambda: not Path(folder).exists() and not psutil.pid_exists(int(pid)), "nothing of the stack is left"
    )


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``perdure.validator`` that only answers its health checks, to start and kill."""
    package = tmp_path / "code" / "perdure" / "validator"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SERVICE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code") + os.pathsep + os.environ.get("PYTHONPATH", ""))
    return tmp_path


def test_a_service_is_started_killed_and_restarted_on_its_port(stub: Path, own_mongodb: Stack) -> None:
    services = Services.of(own_mongodb, ["validator", "validator"], cwd=stub)
    with services:
        service = services["validator-2"]
        port, pid = service.port, service.pid
        assert service.cpu_times().total_s > 0
        assert {status.name: status.state for status in own_mongodb.status()} == {
            "mongodb": "ready",
            "validator": "ready",
            "validator-2": "ready",
        }
        service.kill()
        assert not service.running
        service.start()
        assert (service.port, service.pid != pid) == (port, True)
        service.restart()
    assert not services["validator"].running
    assert len((stub / "started").read_text().split()) == 4
    assert "serving for mongodb://" in service.log.read_text()


def test_another_process_stops_servers_and_services(stub: Path, kept_stack: Callable[..., Stack]) -> None:
    env = os.environ | {"PERDURE_DATA_DIR": str(stub / "data")}
    stack = kept_stack()
    stack.start(["mongodb"])
    service = ServiceProcess("validator", stack.environment(), stack.folder, cwd=stub)
    service.start()
    shown = subprocess.run(
        [sys.executable, "-m", "perdure.local", "status"], env=env, check=True, capture_output=True, text=True
    )
    assert [json.loads(line)["state"] for line in shown.stdout.splitlines()] == ["ready", "ready"]
    subprocess.run([sys.executable, "-m", "perdure.local", "down"], env=env, check=True)
    assert not service.running
    assert stack.status() == []


def test_a_service_that_fails_at_start_shows_its_log(stub: Path) -> None:
    (stub / "code" / "perdure" / "validator" / "__main__.py").write_text("raise SystemExit('no such graph: agent')")
    service = ServiceProcess("validator", {}, stub)
    with pytest.raises(ServerFailedError, match="validator ended during start with exit code 1") as caught:
        service.start()
    assert "no such graph: agent" in str(caught.value)
