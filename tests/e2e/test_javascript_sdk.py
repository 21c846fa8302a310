"""What docs/http-api.md says of the unmodified JavaScript SDK: each call, by node, against the whole system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.javascript import CHAT_APP, CLIENTS, run_script


def test_the_javascript_sdk(system: Any) -> None:
    said = run_script("operations.mjs", system.services.gateway_url)

    assert said["empty"]["values"] == {}
    assert said["empty"]["checkpoint"] is None
    run = said["created"]
    assert run["run_id"]
    assert run["status"] == "pending"
    assert said["got"]["status"] == "success"
    state = said["state"]
    assert state["values"]
    assert said["waited"] == state["values"]
    assert said["waitedWithoutThread"]["step"] == 2
    assert said["told"]["thread_id"] == run["thread_id"]
    assert said["told"]["run_id"] not in (None, run["run_id"])
    assert said["history"][0]["values"] == state["values"]
    assert said["joined"] in [one["values"] for one in said["history"]]
    assert said["changed"]["values"]["log"] == [*state["values"]["log"], "by hand"]
    assert said["changed"]["checkpoint"]["checkpoint_id"] == said["updated"]["configurable"]["checkpoint_id"]
    assert said["made"]["values"] == {"items": ["a"]}
    assert said["failed"] == "Error: ValueError: failed on purpose after 2 steps"

    assert said["cancelled"]["run_id"] == said["slow"]["run_id"]
    assert (said["cancelled"]["status"], said["cancelled"]["perdure_status"]) == ("interrupted", "cancelled")
    assert [one["value"] for one in said["asked"]["__interrupt__"]]
    assert said["resumed"]["run_id"]


def test_a_web_page_may_use_the_local_stack(system: Any) -> None:
    asks = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{system.services.gateway_url}/threads", headers=asks)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (204, "http://localhost:3000")


@pytest.mark.parametrize("folder", [CLIENTS, CHAT_APP], ids=lambda folder: folder.name)
def test_the_packages_are_pinned_without_an_address(folder: Path) -> None:
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    named = json.loads((folder / "package.json").read_text())["dependencies"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in named} == named
    own = [package for name, package in locked.items() if name and not package.get("inBundle")]
    assert all("integrity" in package and "resolved" not in package for package in own)
