"""The public conformance suite of LangGraph's checkpointers, on a real server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.report import ProgressCallbacks

from perdure.chassis import mongo
from perdure.checkpoint import PerdureSaver

CAPABILITIES = 8


@pytest.fixture(scope="module")
def uri(request: pytest.FixtureRequest) -> str:
    return os.environ.get("PERDURE_MONGODB_URI") or request.getfixturevalue("mongodb_uri")


async def test_all_eight_capabilities_pass(uri: str) -> None:
    client = mongo.connect(uri)
    name = f"conformance_{uuid4().hex[:12]}"
    saver = PerdureSaver(client[name])
    await saver.ensure_indexes()

    async def factory() -> AsyncIterator[PerdureSaver]:
        yield saver

    try:
        suite = checkpointer_test(name="PerdureSaver")(factory)
        report = await validate(suite, progress=ProgressCallbacks.default())
    finally:
        await client.drop_database(name)
        await saver.aclose()
        client.close()
    report.print_report()
    failures = {name: result.failures for name, result in report.results.items() if result.passed is not True}
    assert not failures
    assert len(report.results) == CAPABILITIES
