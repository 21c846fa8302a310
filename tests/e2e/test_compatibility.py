"""docs/compatibility.md is what the probes of ``tests/compatibility`` show of the whole system.

``COMPATIBILITY_WRITE=1`` (``make compatibility``) writes the page; otherwise the test fails where the page says something else.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from tests.compatibility.catalogue import PROBES
from tests.compatibility.page import render
from tests.compatibility.running import failures_of

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
GRAPHS = Path(__file__).parents[1] / "compatibility" / "graphs" / "langgraph.json"


@pytest.mark.timeout(300)
def test_the_page_says_what_the_probes_show(start_system: Any) -> None:
    system = start_system(settings={"PERDURE_LANGGRAPH_CONFIG": str(GRAPHS), "PERDURE_COMPLETED_DELETE_S": "2"})
    failures = asyncio.run(failures_of(PROBES, system.services.gateway_url))
    assert not failures, "\n\n".join(f"{name}: {why}" for name, why in failures.items())
    page = render(PROBES, {probe.name: True for probe in PROBES})
    if os.environ.get("COMPATIBILITY_WRITE"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "docs/compatibility.md is not what the probes show; make compatibility writes it"
