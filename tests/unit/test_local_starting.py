"""``perdure up`` finds before it starts anything that the data folder or the gateway's port cannot be had."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.local.errors import PortInUseError
from perdure.local.resources import STACK_VARIABLE, require_port

LISTEN = """
import socket, sys
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen()
print(s.getsockname()[1], flush=True); sys.stdin.read()
"""


def up(tmp_path: Path, command: str = "up", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    return subprocess.run(
        [str(Path(sys.executable).with_name("perdure")), command],
        env=environment | variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", ["up", "dev"])
def test_a_data_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path, command: str) -> None:
    failed = up(tmp_path, command, PERDURE_DATA_DIR="/proc/x")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: the data folder /proc/x cannot be used: ")
    assert "PERDURE_DATA_DIR" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_gateway_port_in_use_is_found_before_a_server_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        failed = up(tmp_path, PERDURE_GATEWAY_PORT=str(port))
    assert failed.returncode == 1
    assert f"gateway: port {port} on 127.0.0.1 is in use by" in failed.stderr
    assert f"pid {os.getpid()}" in failed.stderr
    assert not (tmp_path / ".perdure" / "stack.json").exists()
    assert not (tmp_path / ".perdure" / "logs").exists()


def test_a_gateway_port_that_is_no_number_is_one_sentence(tmp_path: Path) -> None:
    failed = up(tmp_path, PERDURE_GATEWAY_PORT="http")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "PERDURE_GATEWAY_PORT is 'http'; it must be a port number" in failed.stderr


@pytest.fixture
def listener() -> Iterator[int]:
    """The port of a process that belongs to another stack."""
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN],
        env={**os.environ, STACK_VARIABLE: "/srv/other/.perdure"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        yield int(child.stdout.readline())
        child.kill()


def test_a_port_of_another_stack_names_its_folder_and_how_to_free_it(listener: int) -> None:
    with pytest.raises(PortInUseError) as caught:
        require_port("gateway", listener, "PERDURE_GATEWAY_PORT")
    assert "of the Perdure stack in /srv/other/.perdure. Run `perdure down` in /srv/other, or choose" in str(
        caught.value
    )
