"""``private``: whatever it does has ``text`` of its input in it: a long history, a question, a receipt, an error."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph

from perdure.sdk import ask_human, effect


class State(TypedDict, total=False):
    text: str
    log: Annotated[list[str], operator.add]
    answer: Any
    receipt: str
    fails: bool


def remember(state: State) -> State:
    """Long enough for segments of its own."""
    return {"log": [f"{number}: {state['text']}" for number in range(200)]}


def ask(state: State) -> State:
    """Waits for a person."""
    text = state["text"]
    answer = ask_human(f"May {text} go on?", details={"about": text}, action={"release": text})
    return {"answer": str(answer)}


async def act(state: State) -> State:
    """Leaves a receipt."""
    return {"receipt": await effect("act", lambda _key: state["text"])}


def end(state: State) -> State:
    """Fails where it is told to."""
    if state.get("fails"):
        raise ValueError(state["text"])
    return {}


builder = StateGraph(State)
builder.add_node("remember", remember)
builder.add_node("ask", ask)
builder.add_node("act", act)
builder.add_node("end", end)
builder.add_edge(START, "remember")
builder.add_edge("remember", "ask")
builder.add_edge("ask", "act")
builder.add_edge("act", "end")
builder.add_edge("end", END)
graph = builder.compile()
