"""``typed``: values of every kind that a state may hold, carried over a wait; each node says what it was given.

The run stops at an interrupt; whoever resumes it reads everything from the store. ``receipt``: an effect whose receipt is a type of
the state.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from perdure.sdk import effect


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    colour: Colour


class Order(BaseModel):
    number: int
    at: Point


class Item(TypedDict):
    item: Order


class Inner(TypedDict, total=False):
    order: Order
    inside: str


class State(TypedDict, total=False):
    point: Point
    order: Order
    colours: list[Colour]
    messages: Annotated[list[AnyMessage], add_messages]
    inside: str
    seen: Annotated[list[str], operator.add]


def make(_: State) -> State:
    point = Point(1, Colour.RED)
    return {
        "point": point,
        "order": Order(number=7, at=point),
        "colours": [Colour.RED],
        "messages": [HumanMessage("hello"), AIMessage("hi")],
    }


def ask(state: State) -> dict[str, Any]:
    interrupt({"order": state["order"].number})
    return {"seen": [kinds(state)]}


async def act(_: State) -> State:
    async def buy(_: str) -> Order:
        return Order(number=8, at=Point(2, Colour.RED))

    receipt = await effect("buy", buy)
    return {"seen": [type(receipt).__name__, type(receipt.at).__name__]}


def kinds(state: Any) -> str:
    values = [state["point"], state["order"], state["order"].at, state["colours"][0], *state["messages"]]
    return " ".join(type(value).__name__ for value in values)


def fan(state: State) -> list[Send]:
    return [Send("one", {"item": state["order"]})]


def one(given: Item) -> dict[str, Any]:
    return {"seen": [f"sent {type(given['item']).__name__}"]}


def within(state: Inner) -> Inner:
    interrupt("inside")
    return {"inside": type(state["order"]).__name__}


inner = StateGraph(Inner)
inner.add_node("within", within)
inner.add_edge(START, "within")

builder = StateGraph(State)
builder.add_node("make", make)
builder.add_node("ask", ask)
builder.add_node("one", one)
builder.add_node("inner", inner.compile())
builder.add_node("act", act)
builder.add_edge(START, "make")
builder.add_edge("make", "ask")
builder.add_conditional_edges("ask", fan, ["one"])
builder.add_edge("one", "inner")
builder.add_edge("inner", "act")
builder.add_edge("act", END)
graph = builder.compile()
