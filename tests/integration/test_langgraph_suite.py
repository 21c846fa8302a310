"""LangGraph's own tests, from the source package of the installed version, with ``PerdureSaver`` in place of its savers.

The package is fetched with pip, must have a hash of ``requirements-dev.lock``, and is kept in the cache of the local
stack. It is unpacked into a temporary folder, where ``langgraph_conftest.py`` replaces two fixtures.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn
from xml.etree import ElementTree

import pytest

from perdure.local.settings import default_cache_dir

HERE = Path(__file__).parent
LOCK = HERE.parents[1] / "requirements-dev.lock"
KNOWN = 658
"""Tests of LangGraph 1.2.22 that take a saver. With a new version: as many as pass, if none fails."""
REPEATED = 5
"""So many may fail at first and are repeated one at a time: some compare moments 10 ms apart (``test_imp_nested``)."""
FETCH_S = 120
SUITE_S = 900
ONE_TEST_S = 120


class Unavailable(Exception):
    """The source package could not be had."""


def source_package() -> Path:
    """The source package of the installed langgraph.

    Raises:
        Unavailable: It is not in the cache and cannot be fetched, or is not what the lock file pins.

    """
    pin = f"langgraph=={version('langgraph')}"
    found = re.search(rf"^{re.escape(pin)} \\\n((?: +--hash=\S+(?: \\)?\n)+)", LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise Unavailable(f"{pin} is installed, and {LOCK.name} pins another version: run make setup")
    hashes = re.findall(r"sha256:([0-9a-f]{64})", found[1])
    cached = default_cache_dir() / f"{pin.replace('==', '-')}.tar.gz"
    if not cached.is_file() or hashlib.sha256(cached.read_bytes()).hexdigest() not in hashes:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cached.parent) as folder:
            _fetch(pin, hashes, Path(folder)).replace(cached)
    return cached


def _fetch(pin: str, hashes: list[str], folder: Path) -> Path:
    wanted = folder / "wanted.txt"
    wanted.write_text(" ".join([pin, *(f"--hash=sha256:{one}" for one in hashes)]))
    options = ["--disable-pip-version-check", "--quiet", "--no-deps", "--no-binary=:all:", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "download", *options, "--require-hashes", "-r", wanted, "-d", folder]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_S)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"pip could not fetch the source package of {pin}: {error.stderr.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"pip did not fetch the source package of {pin} within {FETCH_S} s") from error
    (package,) = folder.glob("*.tar.gz")
    return package


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LangGraph's tests with our fixtures, unpacked."""
    try:
        package = source_package()
    except Unavailable as error:
        _missing(str(error))
    folder = tmp_path_factory.mktemp("langgraph")
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    tests = unpacked / "tests"
    (tests / "conftest.py").rename(tests / "conftest_langgraph.py")
    shutil.copy(HERE / "langgraph_conftest.py", tests / "conftest.py")
    shutil.rmtree(unpacked / "langgraph")  # what is installed is tested
    return unpacked


@dataclass(frozen=True)
class Counts:
    """What one pass of the suite gave."""

    passed: int
    failed: int


def _run(suite: Path, environment: dict[str, str], report: Path, *more: str) -> tuple[Counts, str]:
    modules = [path for path in sorted(suite.glob("tests/test_*.py")) if "_checkpointer" in path.read_text()]
    options = [
        "-p",
        "no:asyncio",
        "-q",
        "--tb=short",
        f"--timeout={ONE_TEST_S}",
        "-o",
        "addopts=--snapshot-warn-unused",
    ]
    options += ["-o", f"cache_dir={report.with_suffix('.cache')}", f"--junitxml={report}", *more]
    command = [sys.executable, "-m", "pytest", *options, *(str(path.relative_to(suite)) for path in modules)]
    done = subprocess.run(
        command, cwd=suite, env=environment, check=False, capture_output=True, text=True, timeout=SUITE_S
    )
    text = "\n".join(done.stdout.splitlines()[-100:] + done.stderr.splitlines()[-20:])
    assert done.returncode in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}, text
    (found,) = ElementTree.parse(report).getroot().iter("testsuite")
    tests, failures, errors, skipped = (int(found.attrib[name]) for name in ("tests", "failures", "errors", "skipped"))
    return Counts(tests - failures - errors - skipped, failures + errors), text


@pytest.mark.timeout(2 * SUITE_S + 60)
@pytest.mark.parametrize("variant", ["plain", "encrypted"])
def test_langgraph_passes_its_own_tests_on_this_saver(suite: Path, variant: str, mongodb_uri: str) -> None:
    foreign = ("PYTEST_", "LANGSMITH_", "LANGGRAPH_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
        "NO_DOCKER": "true",
        "LANGSMITH_TRACING": "false",
        "PERDURE_SUITE_URI": mongodb_uri,
        "PERDURE_SUITE_ENCRYPT": "1" if variant == "encrypted" else "0",
    }
    first, text = _run(suite, environment, suite / f"{variant}.xml", "-n", "2")
    passed = first.passed
    if 0 < first.failed <= REPEATED:
        print(f"\nrepeated, one at a time:\n{text}")
        again, text = _run(suite, environment, suite / f"{variant}.xml", "--last-failed")
        assert not again.failed, text
        passed += again.passed
    else:
        assert not first.failed, text
    print(f"\nLangGraph {version('langgraph')}, {variant}: {passed} of its tests pass on PerdureSaver")
    assert passed >= KNOWN
