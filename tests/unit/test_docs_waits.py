"""The snippet of ``docs/waits.md`` is complete and waits as it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from perdure.chassis.clock import now
from perdure.schemas.waits import OutcomeKind, WaitOutcome, wait_of

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "waits.md").read_text()


def test_the_agent_waits_three_times() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {"__name__": "agent"}
    exec(compile(source, "docs/waits.md", "exec", dont_inherit=True), names)
    graph = names["builder"].compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}

    def resume(kind: OutcomeKind, **fields: Any) -> Any:
        outcome = WaitOutcome(kind=kind, wait_id="w", at=now(), **fields)
        return graph.invoke(Command(resume=outcome.value()), config)

    waits = [wait_of(graph.invoke({"amount": 82_000}, config)["__interrupt__"][0].value)]
    found = resume(OutcomeKind.SIGNAL, name="reply", payload={"text": "the invoice is right"}, signal_id="s")
    waits.append(wait_of(found["__interrupt__"][0].value))
    found = resume(OutcomeKind.ANSWER, payload={"approve": True}, by="ann")
    waits.append(wait_of(found["__interrupt__"][0].value))
    assert resume(OutcomeKind.DUE)["result"] == "approved by ann"
    assert [wait.kind.value for wait in waits if wait] == ["event", "approval", "timer"]
    assert waits[1] is not None
    assert waits[1].question is not None
    assert (waits[1].question.question, waits[1].question.action) == ("Pay 82000?", {"pay": 82_000})
