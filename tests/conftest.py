"""Real servers for tests.

One ephemeral stack serves the whole session: free ports, temporary data, removed at the end, also when pytest is
killed. Where ``PERDURE_KAFKA_BOOTSTRAP_SERVERS``, ``PERDURE_MONGODB_URI`` or ``PERDURE_OPENSEARCH_URL`` is set, that
server is used instead. A server that can not be started skips its tests on a laptop and fails them when ``CI=true``;
so does a browser that is not there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NoReturn

import pytest
from playwright.async_api import Browser, async_playwright

from perdure.local import resources
from perdure.local.errors import LocalError
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack

CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
)


def pytest_configure(config: pytest.Config) -> None:
    """Ports of its own for each of several processes that run tests side by side."""
    if worker := getattr(config, "workerinput", None):
        first, end = resources.FREE_PORTS
        width = (end - first) // worker["workercount"]
        first += width * int(worker["workerid"].removeprefix("gw"))
        resources.FREE_PORTS = first, first + width


def _missing(what: str, error: LocalError | str) -> NoReturn:
    text = f"{what} could not be started: {error}"
    if os.environ.get("CI") == "true":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """All three servers, started in parallel, for the whole session."""
    servers = Stack(ephemeral=True)
    try:
        try:
            servers.start()
        except LocalError as error:
            _missing("the local stack", error)
        yield servers
    finally:
        servers.stop()


@pytest.fixture(scope="session")
def mongodb_uri(stack: Stack) -> str:
    """A URI without options; the database that it names is shared by the session, so use one of your own per test."""
    return stack.environment()["PERDURE_MONGODB_URI"]


@pytest.fixture(scope="session")
def kafka_bootstrap(stack: Stack) -> str:
    """``host:port``; topics are not created automatically."""
    return stack.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]


@pytest.fixture(scope="session")
def opensearch_url(stack: Stack) -> str:
    """The URL of a single node without security."""
    return stack.environment()["PERDURE_OPENSEARCH_URL"]


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """A headless Chromium of this machine, for the whole session."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        _missing("Chromium", "it is not installed (apt-get install chromium)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
def database_uri() -> Iterator[str]:
    """As ``mongodb_uri``, for the tests of a module that need no other server: ready in a second."""
    servers = Stack(ephemeral=True)
    try:
        try:
            servers.start(("mongodb",))
        except LocalError as error:
            _missing("mongodb", error)
        yield servers.environment()["PERDURE_MONGODB_URI"]
    finally:
        servers.stop()


@pytest.fixture
def own_stack() -> Iterator[Callable[..., Stack]]:
    """Start servers of the test's own, to stop or kill: ``own_stack("mongodb")``. Ignores addresses that are set."""
    stacks: list[Stack] = []

    def start(*names: str) -> Stack:
        local = {"kafka_bootstrap_servers": None, "mongodb_uri": None, "opensearch_url": None}
        stacks.append(Stack(LocalSettings().model_copy(update=local), ephemeral=True))
        try:
            stacks[-1].start(names)
        except LocalError as error:
            _missing(", ".join(names), error)
        return stacks[-1]

    yield start
    for own in stacks:
        own.stop()


@pytest.fixture
def own_mongodb(own_stack: Callable[..., Stack]) -> Stack:
    """A MongoDB-compatible server of the test's own.

    ``own_mongodb.environment()["PERDURE_MONGODB_URI"]``; ``stop_server("mongodb", kill=True)``, ``start_server``,
    ``pause`` and ``resume`` keep its port and data.
    """
    return own_stack("mongodb")
