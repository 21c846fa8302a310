"""The graphs of the probes: nothing but LangGraph, so that the reference serves them as well.

* ``walk``: ``n`` more steps, each ``delay_s`` long, by the nodes ``left`` and ``right`` in turn; ``seen`` is what the last step saw
  of its run: ``configurable``, ``tags``, ``metadata``, ``recursion_limit`` and ``context``.
* ``ask``: one question, ``{"question": "go on?"}``, that wants a text; ``answer`` holds the answer, ``note`` what an update wrote.
* ``fail``: one good step, then ValueError.
* ``nested``: the subgraph ``inner`` asks; ``log`` is ``["inner"]``.
* ``fan``: three tasks ``each`` by ``Send``, the second of which asks.
* ``talk``: a scripted model answers in chunks, and a custom event is written; ``messages`` holds the conversation.
"""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict

SENTENCE = "one two three four"


class Context(TypedDict, total=False):
    who: str


def newest(_: int, value: int) -> int:
    """The last value that was written, also where several tasks of one superstep write."""
    return value


class Walk(TypedDict, total=False):
    n: int
    delay_s: float
    done: Annotated[int, newest]
    log: Annotated[list[str], operator.add]
    seen: dict[str, Any]


def begin(state: Walk) -> dict[str, Any]:
    """Count from 0 again: each run takes ``n`` steps more."""
    return {"done": 0}


def _step(name: str) -> Any:
    async def step(state: Walk, config: RunnableConfig, runtime: Runtime[Context]) -> dict[str, Any]:
        await asyncio.sleep(state.get("delay_s", 0))
        seen = {
            "configurable": {
                key: value
                for key, value in config.get("configurable", {}).items()
                if isinstance(value, str) and not key.startswith("__")
            },
            "tags": list(config.get("tags") or ()),
            "metadata": {key: value for key, value in config.get("metadata", {}).items() if isinstance(value, str)},
            "recursion_limit": config.get("recursion_limit"),
            "context": dict(runtime.context or {}),
        }
        return {"done": state.get("done", 0) + 1, "log": [name], "seen": seen}

    return step


def _next(state: Walk) -> str:
    done = state.get("done", 0)
    if done >= state.get("n", 1):
        return END
    return "right" if done % 2 else "left"


_walk = StateGraph(Walk, context_schema=Context)
_walk.add_node("begin", begin)
_walk.add_node("left", _step("left"))
_walk.add_node("right", _step("right"))
_walk.add_edge(START, "begin")
for _source in ("begin", "left", "right"):
    _walk.add_conditional_edges(_source, _next, ["left", "right", END])
walk = _walk.compile()


class Ask(TypedDict, total=False):
    note: str
    answer: Any
    log: Annotated[list[str], operator.add]


def question(state: Ask) -> dict[str, Any]:
    """Asks."""
    answer = interrupt({"question": "go on?"}, response_schema={"type": "string"})
    return {"answer": answer, "log": ["question"]}


def finish(state: Ask) -> dict[str, Any]:
    """The last node; ``goto`` leads here past the question."""
    return {"log": ["finish"]}


_ask = StateGraph(Ask)
_ask.add_node("question", question)
_ask.add_node("finish", finish)
_ask.add_edge(START, "question")
_ask.add_edge("question", "finish")
_ask.add_edge("finish", END)
ask = _ask.compile()


def break_(state: Walk) -> dict[str, Any]:
    """Fails."""
    raise ValueError("failed on purpose")


_fail = StateGraph(Walk)
_fail.add_node("begin", begin)
_fail.add_node("break", break_)
_fail.add_edge(START, "begin")
_fail.add_edge("begin", "break")
_fail.add_edge("break", END)
fail = _fail.compile()


class Inner(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def inside(state: Inner) -> dict[str, Any]:
    """Asks, in the subgraph."""
    interrupt({"question": "inside?"})
    return {"log": ["inner"]}


_inner = StateGraph(Inner)
_inner.add_node("inside", inside)
_inner.add_edge(START, "inside")
_inner.add_edge("inside", END)

_nested = StateGraph(Ask)
_nested.add_node("inner", _inner.compile())
_nested.add_edge(START, "inner")
_nested.add_edge("inner", END)
nested = _nested.compile()


class Each(TypedDict):
    i: int


def each(item: Each) -> dict[str, Any]:
    """The second asks."""
    if item["i"] == 1:
        interrupt({"question": "which?"})
    return {"log": [f"each {item['i']}"]}


_fan = StateGraph(Ask)
_fan.add_node("each", each)
_fan.add_conditional_edges(START, lambda _: [Send("each", Each(i=i)) for i in range(3)], ["each"])
_fan.add_edge("each", END)
fan = _fan.compile()


class Talk(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]


async def model(state: Talk) -> dict[str, Any]:
    """Answers in chunks."""
    get_stream_writer()({"progress": 1})
    answer = await GenericFakeChatModel(messages=iter([AIMessage(SENTENCE)])).ainvoke(state["messages"])
    return {"messages": [answer]}


_talk = StateGraph(Talk)
_talk.add_node("model", model)
_talk.add_edge(START, "model")
_talk.add_edge("model", END)
talk = _talk.compile()
