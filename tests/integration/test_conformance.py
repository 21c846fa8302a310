"""The public conformance suite of LangGraph's checkpointers, on a real server."""

from __future__ import annotations

import os

import pytest

from perdure.checkpoint import conformance


@pytest.fixture(scope="module")
def uri(request: pytest.FixtureRequest) -> str:
    return os.environ.get("PERDURE_MONGODB_URI") or request.getfixturevalue("mongodb_uri")


async def test_all_eight_capabilities_pass(uri: str) -> None:
    report = await conformance.run(uri)
    failures = {name: result.failures for name, result in report.results.items() if result.passed is not True}
    assert not failures
    assert len(report.results) == conformance.CAPABILITIES
    assert conformance.passed_everything(report)
