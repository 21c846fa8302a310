"""Agents that keep their state in DeltaChannels.

* ``deep``: a Deep Agent whose model follows a script: it says the next of ``SCRIPT`` for each answer that the conversation
  holds already, so that a worker that takes over says what the one before would have said. Where the script says ``GATE`` and
  the file of that name in the first message does not exist, the model waits for it.
* ``team``: a Deep Agent with todos that leaves the research to a sub-agent.
* ``table``: notes and a table, an ordinary reducer and an ordinary value, with a node that waits for a person. A command may go
  to ``slow``, which waits for a file.
"""

from __future__ import annotations

import asyncio
import json
import operator
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from deepagents import create_deep_agent
from langchain.agents.middleware import TodoListMiddleware
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

GATE = 2
SCRIPT = [
    AIMessage("", tool_calls=[{"name": "write_file", "id": "c1", "args": {"file_path": "/a.txt", "content": "aubergine\n"}}]),
    AIMessage("", tool_calls=[{"name": "read_file", "id": "c2", "args": {"file_path": "/a.txt"}}]),
    AIMessage("", tool_calls=[{"name": "write_file", "id": "c3", "args": {"file_path": "/b.txt", "content": "quince " * 99}}]),
    AIMessage("The report on aubergines is written."),
    AIMessage("", tool_calls=[{"name": "edit_file", "id": "c4", "args": {
        "file_path": "/a.txt", "old_string": "aubergine", "new_string": "courgette"}}]),
    AIMessage("Now it is about courgettes."),
]  # fmt: skip


TEAM_SCRIPT = [
    AIMessage("", tool_calls=[{"name": "write_todos", "id": "t1", "args": {"todos": [
        {"content": "research", "status": "in_progress"}, {"content": "write", "status": "pending"}]}}]),
    AIMessage("", tool_calls=[{"name": "task", "id": "t2", "args": {
        "description": "What is a zucchini?", "subagent_type": "researcher"}}]),
    AIMessage("", tool_calls=[{"name": "write_todos", "id": "t3", "args": {"todos": [
        {"content": "research", "status": "completed"}, {"content": "write", "status": "completed"}]}}]),
    AIMessage("The team is done."),
    AIMessage("The file of the user is read."),
]  # fmt: skip
RESEARCH_SCRIPT = [
    AIMessage("", tool_calls=[{"name": "write_file", "id": "r1", "args": {"file_path": "/facts.txt", "content": "courgette\n"}}]),
    AIMessage("A zucchini is a courgette."),
]  # fmt: skip


class Scripted(GenericFakeChatModel):
    script: list[AIMessage] = SCRIPT

    def bind_tools(self, *_: Any, **__: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next(messages))])

    def _stream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        """The same word by word, and the arguments of a tool's call in two halves, as models send them."""
        message = self._next(messages)
        for index, call in enumerate(message.tool_calls):
            args = json.dumps(call["args"])
            half = len(args) // 2
            for name, id_, part in ((call["name"], call["id"], args[:half]), (None, None, args[half:])):
                chunk = tool_call_chunk(name=name, id=id_, args=part, index=index)
                yield ChatGenerationChunk(message=AIMessageChunk("", id=message.id, tool_call_chunks=[chunk]))
        for word in re.findall(r"\S+\s*", str(message.content)):
            yield ChatGenerationChunk(message=AIMessageChunk(word, id=message.id))

    def _next(self, messages: list[BaseMessage]) -> AIMessage:
        said = sum(isinstance(message, AIMessage) for message in messages)
        words = str(messages[1 if messages[0].type == "system" else 0].content).split()
        gates = [Path(word) for word in words if word.startswith("/") and word.endswith(".gate")]
        while said == GATE and gates and not gates[0].exists():
            time.sleep(0.05)
        return self.script[said].model_copy(update={"id": f"said-{len(self.script)}-{said}"})


def deep_agent(saver: BaseCheckpointSaver[Any] | None = None) -> Any:
    return create_deep_agent(model=Scripted(messages=iter(())), checkpointer=saver)


def team_agent(saver: BaseCheckpointSaver[Any] | None = None) -> Any:
    researcher: Any = {
        "name": "researcher",
        "description": "Looks things up.",
        "system_prompt": "You look things up.",
        "model": Scripted(messages=iter(()), script=RESEARCH_SCRIPT),
    }
    model = Scripted(messages=iter(()), script=TEAM_SCRIPT)
    return create_deep_agent(model=model, subagents=[researcher], middleware=[TodoListMiddleware()], checkpointer=saver)


def add_all(state: list[str], writes: Sequence[list[str]]) -> list[str]:
    return [*state, *(item for write in writes for item in write)]


class Table(TypedDict, total=False):
    notes: Annotated[list[str], DeltaChannel(add_all, snapshot_frequency=4)]
    log: Annotated[list[str], operator.add]
    total: int
    gate: str


def asks(state: Table) -> dict[str, Any]:
    return {"notes": [str(interrupt("how many?"))], "log": ["asked"]}


async def slow(state: Table) -> dict[str, Any]:
    while not Path(state["gate"]).exists():
        await asyncio.sleep(0.05)
    return {"log": ["slow"]}


def table_graph(saver: BaseCheckpointSaver[Any] | None = None) -> Any:
    builder = StateGraph(Table)
    builder.add_node("adds", lambda _: {"notes": ["added"], "total": 13})
    builder.add_node("asks", asks)
    builder.add_node("slow", slow)
    builder.add_edge(START, "adds")
    builder.add_edge("adds", "asks")
    builder.add_edge("asks", END)
    builder.add_edge("slow", END)
    return builder.compile(checkpointer=saver)


graph = deep_agent()
team = team_agent()
table = table_graph()
