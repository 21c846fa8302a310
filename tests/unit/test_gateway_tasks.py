"""Paths of tasks, as clients read them."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.pregel._algo import task_path_str

from perdure.gateway.stores.tasks import path_of
from perdure.gateway.stores.waits import questions
from perdure.schemas.waits import Question, Wait, WaitKind


@pytest.mark.parametrize(
    "path",
    [
        ("__pregel_pull", "node"),
        ("__pregel_push", 12, False),
        ("__pregel_push", ("__pregel_pull", "workflow"), 3, True),
        ("__pregel_push", ("__pregel_push", ("__pregel_pull", "workflow"), 0, True), 1, True),
        ("__pregel_pull", "node", "node_error_handler", False),
    ],
)
def test_a_path_is_read_as_langgraph_wrote_it(path: tuple[Any, ...]) -> None:
    assert path_of(task_path_str(path)) == listed(path)


def test_what_is_no_path_is_empty() -> None:
    assert path_of("") == path_of("~") == path_of("~other, 1") == []


def listed(path: Any) -> Any:
    return [listed(part) for part in path] if isinstance(path, tuple) else path


def test_a_question_says_what_an_answer_must_fit() -> None:
    schema = {"type": "boolean"}
    asked = Wait(kind=WaitKind.APPROVAL, question=Question(question="May I?", answer_schema=schema))
    interrupts = [{"id": "1", "value": asked.value()}, {"id": "2", "value": "plain?"}]
    assert questions(interrupts) == [interrupts[0] | {"response_schema": schema}, interrupts[1]]
