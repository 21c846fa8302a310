"""Graphs that pause with plain interrupts, as graphs do that know nothing of ``perdure.sdk``. ``log`` has what the nodes got.

* ``plain``: two parallel nodes: one asks for a text, one with a ``response_schema``.
* ``inbox``: asks with agent-inbox's ``HumanInterrupt``, as that library is used: a list with one request.
* ``reviewed``: an agent with LangChain's ``HumanInTheLoopMiddleware`` whose model follows a script: it mails twice in one turn.
* ``reviewed_each``: the same with one interrupt for each call.
"""

from __future__ import annotations

import operator
import time
from pathlib import Path
from typing import Annotated, Any

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict  # of typing only from Python 3.12 on, says pydantic


class State(TypedDict, total=False):
    gate: str
    log: Annotated[list[Any], operator.add]


class Limit(TypedDict):
    limit: int


def asks_text(_: State) -> dict[str, Any]:
    return {"log": [["text", interrupt("What shall I write?")]]}


def asks_limit(state: State) -> dict[str, Any]:
    answer = interrupt({"question": "How much at most?", "currency": "EUR"}, response_schema=Limit)
    if gate := state.get("gate"):
        Path(f"{gate}.reached").touch()
        while not Path(gate).exists():
            time.sleep(0.05)
    return {"log": [["limit", answer]]}


def asks_inbox(_: State) -> dict[str, Any]:
    request = {
        "action_request": {"action": "send_mail", "args": {"to": "ann@example.com", "body": "Hello"}},
        "config": {"allow_ignore": True, "allow_respond": True, "allow_edit": True, "allow_accept": True},
        "description": "Shall I send this mail?",
    }
    return {"log": [interrupt([request])[0]]}


def _graph(**nodes: Any) -> Any:
    builder = StateGraph(State)
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(START, name)
        builder.add_edge(name, END)
    return builder.compile()


@tool
def send_mail(to: str, body: str) -> str:
    """Send a mail."""
    return f"sent to {to}: {body}"


class Scripted(GenericFakeChatModel):
    """Mails Ann and Bob in its first turn, and says what came of it in its second."""

    def bind_tools(self, *_: Any, **__: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        results = [str(message.content) for message in messages if message.type == "tool"]
        calls = [
            {"name": "send_mail", "id": f"c{number}", "args": {"to": to, "body": "Hello"}}
            for number, to in enumerate(("ann", "bob"))
        ]
        said = AIMessage("; ".join(results)) if results else AIMessage("", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=said)])


def _agent(mode: Any) -> Any:
    middleware = HumanInTheLoopMiddleware({"send_mail": True}, edit_notice=None, interrupt_mode=mode)
    return create_agent(Scripted(messages=iter(())), [send_mail], middleware=[middleware])


plain = _graph(asks_text=asks_text, asks_limit=asks_limit)
inbox = _graph(asks_inbox=asks_inbox)
reviewed, reviewed_each = _agent("batched"), _agent("per_call")
