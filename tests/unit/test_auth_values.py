"""What ``authorize`` handlers get of a request, and what becomes of their changes."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from perdure.gateway.auth.governed import Ask
from perdure.gateway.auth.values import changed_body, value_of
from perdure.gateway.http.thread_ids import QUALIFIER
from perdure.schemas.http import RunCreate
from perdure.schemas.thread_http import ThreadPatch

RUN = Ask("threads", "create_run", makes=True)


def request_of(path: str, **named: str) -> web.Request:
    request = make_mocked_request("POST", path, match_info=named)
    request[QUALIFIER] = "acme~"
    return request


@pytest.mark.parametrize(
    ("ask", "named", "body", "value"),
    [
        (
            RUN,
            {"thread_id": "acme~t"},
            {"assistant_id": "a", "input": {"x": 1}, "config": {}, "metadata": None},
            {"thread_id": "t", "assistant_id": "a", "metadata": {}, "kwargs": {"input": {"x": 1}, "config": {}}},
        ),
        (Ask("threads", "read"), {"thread_id": "acme~t", "run_id": "r"}, {}, {"thread_id": "t", "run_id": "r", "status": "all"}),
        (Ask("threads", "search"), {}, {"limit": 1}, {"limit": 1, "metadata": {}, "status": "all"}),
        (
            Ask("crons", "create", makes=True),
            {},
            {"schedule": "* * * * *", "assistant_id": "a", "input": 1},
            {
                "schedule": "* * * * *", "assistant_id": "a", "input": 1, "metadata": {}, "status": "all",
                "payload": {"assistant_id": "a", "input": 1},
            },
        ),
        (Ask("crons", "read"), {"schedule_id": "s"}, {}, {"cron_id": "s", "status": "all"}),
    ],
)  # fmt: skip
def test_values(ask: Ask, named: dict[str, str], body: Any, value: dict[str, Any]) -> None:
    query = "" if ask is RUN else "?status=all&other=1"
    assert value_of(request_of(f"/path{query}", **named), ask, body) == value


def test_what_a_handler_may_change() -> None:
    body = {"assistant_id": "a", "input": {"x": 1}, "command": {"resume": 1}}
    changed = {
        "metadata": {"owner": "ann"},
        "assistant_id": "b",
        "thread_id": "other",
        "unknown": 1,
        "kwargs": {"input": {"x": 2}, "config": {"tags": ["t"]}},
    }
    assert changed_body(RunCreate, RUN, body, changed) == {
        "assistant_id": "a",
        "input": {"x": 2},
        "command": None,
        "config": {"tags": ["t"]},
        "metadata": {"owner": "ann"},
    }
    patch = Ask("threads", "update", makes=True)
    assert changed_body(ThreadPatch, patch, {}, {"metadata": {"a": 1}, "kwargs": {"input": 1}}) == {
        "metadata": {"a": 1}
    }
