"""What a sleeping thread waits for, apart from the questions that people answer.

Contract: pure. LangGraph represents every pause as an interrupt, and clients show an interrupt as a question to their user. A
sleep, a wait for a signal and a validation end without an answer from that user; they are shown as ``waits`` instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from perdure.schemas.waits import asks_people, wait_id, wait_of

Document = dict[str, Any]


def questions(interrupts: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The interrupts that ask people something: those of ``ask_human`` and every plain ``interrupt()``.

    ``response_schema`` is the JSON Schema that ``ask_human`` or ``interrupt(..., response_schema=)`` gave the answer, if any.
    """
    return [_with_schema(one) for one in interrupts if asks_people(one["value"])]


def _with_schema(interrupt: Mapping[str, Any]) -> Mapping[str, Any]:
    wait = wait_of(interrupt["value"])
    schema = wait.question.answer_schema if wait is not None and wait.question is not None else None
    return interrupt if schema is None else {**interrupt, "response_schema": schema}


def wait_views(thread_id: str, node: str, interrupts: Iterable[Mapping[str, Any]]) -> list[Document]:
    """The other waits of one task, in the shape of ``perdure.schemas.http.Wait``.

    Args:
        thread_id: The thread that waits.
        node: The node that waits.
        interrupts: The task's interrupts as ``{"id", "value"}``.

    """
    found: list[Document] = []
    for interrupt in interrupts:
        if asks_people(interrupt["value"]):
            continue
        wait = wait_of(interrupt["value"])
        if wait is not None:
            found.append(
                {
                    "wait_id": wait_id(thread_id, str(interrupt["id"])),
                    "interrupt_id": interrupt["id"],
                    "node": node,
                    "kind": wait.kind.value,
                    "due_at": wait.due_at,
                    "events": list(wait.events),
                }
            )
    return found
