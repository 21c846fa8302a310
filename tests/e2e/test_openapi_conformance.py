"""What the gateway answers is what ``/openapi.json`` says: requests made up by schemathesis, valid and not, to the whole system.

Checked of each answer: no 5xx, a status that is described, its content type, the schema of its body, its headers. Half of the
requests go to threads, runs and so on that exist. The requests are the same each time (a fixed seed), their number is bounded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from tests.support.polling import until_blocking

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import APIOperation, Case, GenerationMode
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

SEED = 17
EXAMPLES = {GenerationMode.POSITIVE: 12, GenerationMode.NEGATIVE: 6}
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
TIMEOUT_S = 20
ENDLESS = "/threads/{thread_id}/stream"
"""Tells a thread until the client goes away: asked only about threads that are not there."""
LAST = ("/prune", "/runs/cancel", "/hold")
"""Operations after which little is left to ask about, besides ``DELETE``."""

Ids = dict[str, str]


def order(operation: APIOperation) -> tuple[bool, bool]:
    return operation.method.upper() == "DELETE", operation.path.endswith(LAST)


@pytest.fixture(scope="module")
def there(system: Any) -> list[Ids]:
    """Ids that belong together, of a little of everything."""
    http = system.http

    def made(path: str, **body: Any) -> dict[str, Any]:
        answer = http.post(path, json=body)
        assert answer.is_success, answer.text
        return dict(answer.json())

    walked, asked = system.start("chain", {"n": 3}), system.start("asker", {})
    failed = system.start("fails", {})
    system.until_ended(walked, asked, failed)
    thread = walked["thread_id"]
    hook = {"kinds": ["completed"], "channel": "webhook", "target": "http://127.0.0.1:9/hook"}
    subscription = made("/subscriptions", scope="thread", scope_id=thread, **hook)
    delivery = made(f"/subscriptions/{subscription['subscription_id']}/test")
    schedule = made("/schedules", assistant_id="chain", cron="0 7 * * *", input={})
    batch = made("/batches", assistant_id="chain", items=[{"input": {"n": 1}}, {"input": {"n": 1}}])
    made(f"/threads/{thread}/signals/later", payload={"a": 1})
    approvals = until_blocking(
        lambda: http.get("/approvals", params={"thread_id": asked["thread_id"]}).json()["approvals"], "the question"
    )
    common = {
        "approval_id": approvals[0]["approval_id"],
        "subscription_id": subscription["subscription_id"],
        "delivery_id": delivery["delivery_id"],
        "schedule_id": schedule["schedule_id"],
        "cron_id": schedule["schedule_id"],
        "batch_id": batch["batch_id"],
        "assistant_id": "chain",
        "name": "later",
    }
    runs = [walked, asked, failed]
    return [common | {name: run[name] for name in ("thread_id", "run_id")} | _newest(system, run) for run in runs]


def _newest(system: Any, run: Ids) -> Ids:
    state = system.http.get(f"/threads/{run['thread_id']}/state").json()
    return {"checkpoint_id": state["checkpoint"]["checkpoint_id"]}


@pytest.mark.timeout(600)
def test_the_gateway_answers_as_its_description_says(system: Any, there: list[Ids]) -> None:
    schema = schemathesis.openapi.from_url(f"{system.services.gateway_url}/openapi.json")
    operations = sorted((result.ok() for result in schema.get_all_operations()), key=order)
    assert len(operations) > 50
    failures: dict[str, str] = {}
    asked = [one for operation in operations for one in ask(operation, there, failures)]
    assert not failures, "\n\n".join(f"{what}\n{why}" for what, why in failures.items())
    assert len(asked) > 5 * len(operations)
    assert sum(status < 300 for status in asked) > len(asked) // 5


def ask(operation: APIOperation, there: list[Ids], failures: dict[str, str]) -> Iterator[int]:
    """Send an operation's requests; the statuses of the answers. What is wrong is added to ``failures``."""
    for mode, count in EXAMPLES.items():
        for case in cases(operation, mode, count, there):
            try:
                answer = case.call(timeout=TIMEOUT_S)
                yield answer.status_code
                case.validate_response(answer, checks=CHECKS)
            except FailureGroup as group:
                for one in group.exceptions:
                    failures.setdefault(f"{operation.label}: {one.title}", f"{one}\n{case.as_curl_command()}")
            except requests.Timeout as error:
                failures.setdefault(f"{operation.label}: no answer", f"{error}\n{case.as_curl_command()}")


def cases(operation: APIOperation, mode: GenerationMode, count: int, there: list[Ids]) -> Iterable[Case]:
    """Requests of one kind; none where the description leaves nothing that would not be valid."""
    made: list[Case] = []

    @seed(SEED)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        operation.as_strategy(mode),
        st.sampled_from(there),
        st.just(False) if operation.path == ENDLESS else st.booleans(),
    )
    def make(case: Case, ids: Ids, exists: bool) -> None:
        if exists:
            case.path_parameters.update({name: ids[name] for name in case.path_parameters if name in ids})
        body = case.body
        for one in body if isinstance(body, list) else [body]:
            if isinstance(one, dict):
                settle(one, ids, exists=exists)
        made.append(case)

    try:
        make()
    except Unsatisfiable:
        return []
    return made


def settle(body: dict[str, Any], ids: Ids, *, exists: bool) -> None:
    """Name what is there, and nothing that starts so late that whoever waits for it waits too long."""
    for name in ("assistant_id", "thread_id"):
        if exists and isinstance(body.get(name), str):
            body[name] = ids[name]
    if isinstance(body.get("after_seconds"), int | float) and body["after_seconds"] > 0:
        body["after_seconds"] = 0
