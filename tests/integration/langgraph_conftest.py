"""Takes the place of ``tests/conftest.py`` in LangGraph's source package: each test gets a ``PerdureSaver``.

Contract: LangGraph's own ``conftest.py`` lies beside it as ``conftest_langgraph.py``; all of its fixtures stay but the
two that give a saver. Each saver has a database of its own at ``PERDURE_SUITE_URI``, encrypted with
``PERDURE_SUITE_ENCRYPT=1``. Only tests that take a saver are run: what else LangGraph tests is not ours.

The tests of ``PostgresSaver.prune`` run as well, each once, without those that use PostgreSQL itself, and without
``*refuses_a_batch_with_a_delta_channel_thread``: Perdure keeps what a DeltaChannel needs and refuses nothing.
"""

from __future__ import annotations

import os
import types
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pymongo
import pytest
from langchain_core.language_models import base as language_models_base
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from pymongo import client_session_shared
from tests import conftest_checkpointer
from tests.conftest_langgraph import *  # noqa: F403

from perdure.checkpoint import PerdureSaver

NO_DOCKER = False
"""``test_prune_postgres.py`` reads it, and skips its tests without."""

SERVER = os.environ["PERDURE_SUITE_URI"].rsplit("/", 1)[0]
ENCRYPT = os.environ.get("PERDURE_SUITE_ENCRYPT") == "1"

# The fixture deterministic_uuids replaces uuid.uuid4 everywhere and counts the calls; PyMongo names its sessions by it.
client_session_shared.uuid = types.SimpleNamespace(uuid4=uuid.uuid4)  # type: ignore[attr-defined]

# test_weather_subgraph expects metadata as where the package langchain is not installed; deepagents installs it.
language_models_base._get_langchain_version = lambda: None


def _opened() -> tuple[str, PerdureSaver]:
    name = f"suite_{os.urandom(8).hex()}"
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"1234567890123456") if ENCRYPT else None
    return name, PerdureSaver.from_conn_string(f"{SERVER}/{name}", serde=serde)


@contextmanager
def _saver() -> Iterator[PerdureSaver]:
    name, opened = _opened()
    with opened as saver:
        yield saver
    with pymongo.MongoClient(SERVER) as client:  # type: pymongo.MongoClient[Any]
        client.drop_database(name)


@asynccontextmanager
async def _saver_aio() -> AsyncIterator[PerdureSaver]:
    name, opened = _opened()
    async with opened as saver:
        yield saver
        await saver.notebook.store.collection.database.client.drop_database(name)


conftest_checkpointer._checkpointer_postgres = _saver
conftest_checkpointer._checkpointer_postgres_aio = _saver_aio


@pytest.fixture
def sync_checkpointer() -> Iterator[PerdureSaver]:
    with _saver() as saver:
        yield saver


@pytest.fixture
async def async_checkpointer() -> AsyncIterator[PerdureSaver]:
    async with _saver_aio() as saver:
        yield saver


def _is_ours(item: Any) -> bool:
    if item.path.name != "test_prune_postgres.py":
        return bool({"sync_checkpointer", "async_checkpointer"} & set(item.fixturenames))
    make = item.callspec.params.get("make_checkpointer") if hasattr(item, "callspec") else None
    return make in (_saver, _saver_aio) and "refuses_a_batch_with_a_delta_channel_thread" not in item.name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=[item for item in items if not _is_ours(item)])
    items[:] = [item for item in items if _is_ours(item)]
