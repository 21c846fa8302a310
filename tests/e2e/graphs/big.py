"""``big``: a state of about ``size`` bytes (default 1 MiB), as one text and as a list of messages, then two steps more.

Input: ``size``, ``chunk`` (bytes of one message, default 2,000), ``as_text`` and ``as_list`` (both default true).
Text is different in each run and does not compress away. ``digest`` is the SHA-256 of everything, to compare.
"""

from __future__ import annotations

import hashlib
import operator
import os
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    size: int
    chunk: int
    as_text: bool
    as_list: bool
    text: str
    messages: Annotated[list[dict[str, Any]], operator.add]
    digest: str
    step: int


def fill(state: State) -> dict[str, Any]:
    """Make the state."""
    size, chunk = state.get("size", 1 << 20), state.get("chunk", 2000)
    text = _text(size) if state.get("as_text", True) else ""
    messages = [_message(i, chunk) for i in range(-(-size // chunk))] if state.get("as_list", True) else []
    return {"text": text, "messages": messages, "digest": digest(text, messages), "step": 1}


def append(state: State) -> dict[str, Any]:
    """Append one message; the text stays."""
    added = [_message(len(state["messages"]), state.get("chunk", 2000))]
    return {"messages": added, "digest": digest(state["text"], state["messages"] + added), "step": state["step"] + 1}


def digest(text: str, messages: list[dict[str, Any]]) -> str:
    """SHA-256 of the text and of what the messages say, as hex."""
    total = hashlib.sha256(text.encode())
    for message in messages:
        total.update(message["content"].encode())
    return total.hexdigest()


def _text(size: int) -> str:
    return os.urandom(size // 2 + 1).hex()[:size]


def _message(i: int, size: int) -> dict[str, Any]:
    return {"role": "assistant", "i": i, "content": _text(size)}


builder = StateGraph(State)
builder.add_node("fill", fill)
builder.add_node("append", append)
builder.add_edge(START, "fill")
builder.add_edge("fill", "append")
builder.add_conditional_edges("append", lambda state: "append" if state["step"] < 3 else END, ["append", END])
graph = builder.compile()
