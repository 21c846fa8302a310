"""An agent that audits a source tree: plan, read a few files per superstep, ask a person, write the report.

An ordinary LangGraph graph. It imports nothing of Perdure, and runs the same under ``graph.invoke`` with any
checkpointer.

Input: any of ``root`` (default: the standard library of the Python that runs it), ``packages`` (parts of the root;
default all of it), ``skip``, ``batch`` (files per superstep; default the variable ``CODE_AUDIT_BATCH``, else 5),
``output`` (a folder for the report; default none, the report is in the state only) and ``title``.
It pauses before the report is written. Resume with ``"approve"`` or ``{"decision": "reject", "reason": "..."}``.
A further start on the same thread reads what was not read yet and reports on all of it.
"""

from __future__ import annotations

import operator
import os
import sysconfig
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from constructs import FileResult, Finding, inspect_file
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from report import render, summary, write
from sources import SKIP, list_files

DEFAULT_BATCH = 5


class Message(TypedDict):
    """One line of the log, in the shape of a chat."""

    role: str
    content: str


class AuditInput(TypedDict, total=False):
    """What a client may say."""

    root: str
    packages: list[str]
    skip: list[str]
    batch: int
    output: str
    title: str


class Audit(AuditInput, total=False):
    """The state."""

    files: list[str]
    """What is to be read, in order."""
    position: int
    """How many of ``files`` have been read."""
    audited: Annotated[list[FileResult], operator.add]
    findings: Annotated[list[Finding], operator.add]
    messages: Annotated[list[Message], operator.add]
    decision: str
    """``approved`` or ``rejected``."""
    reason: str
    report: str
    report_path: str


def plan(state: Audit) -> dict[str, Any]:
    """Find the files. Raises ValueError for a root or package that does not exist."""
    root = state.get("root") or sysconfig.get_path("stdlib")
    packages = state.get("packages") or []
    known = {result["file"] for result in state.get("audited", [])}
    files = [file for file in list_files(Path(root), packages, state.get("skip") or SKIP) if file not in known]
    batch = max(1, state.get("batch") or int(os.environ.get("CODE_AUDIT_BATCH", DEFAULT_BATCH)))
    title = state.get("title") or ", ".join(packages) or Path(root).name
    text = f"I will audit {len(files)} files of {title} below {root}, {batch} at a time."
    return {
        "root": root,
        "batch": batch,
        "title": title,
        "files": files,
        "position": 0,
        "messages": [_say(text)],
    }


def audit(state: Audit) -> dict[str, Any]:
    """Read the next few files."""
    position = state["position"]
    files = state["files"][position : position + state["batch"]]
    audited: list[FileResult] = []
    findings: list[Finding] = []
    for file in files:
        result, found = inspect_file(Path(state["root"]), file)
        audited.append(result)
        findings += found
    return {
        "position": position + len(files),
        "audited": audited,
        "findings": findings,
        "messages": [_say(_progress(audited, findings))],
    }


def after_batch(state: Audit) -> Literal["audit", "review"]:
    """Go on while files are left."""
    return "audit" if state["position"] < len(state["files"]) else "review"


def review(state: Audit) -> Command[Literal["review", "write_report", "close"]]:
    """Ask a person; anything but a clear answer is asked again."""
    question = f"May I write the report on {state['title']}? Answer approve or reject, with a reason."
    worst = [finding for finding in state.get("findings", []) if finding["severity"] == "high"][:5]
    counts = summary(state.get("audited", []), state.get("findings", []))
    decision, reason = _answer(interrupt({"question": question, "summary": counts, "worst": worst}))
    if decision == "approve":
        said = {"role": "user", "content": f"Approved. {reason}".strip()}
        return Command(goto="write_report", update={"decision": "approved", "reason": reason, "messages": [said]})
    if decision == "reject":
        said = {"role": "user", "content": f"Rejected: {reason or 'no reason given'}."}
        return Command(goto="close", update={"decision": "rejected", "reason": reason, "messages": [said]})
    return Command(goto="review", update={"messages": [_say(f"I did not understand {decision!r}. {question}")]})


def write_report(state: Audit, config: RunnableConfig) -> dict[str, Any]:
    """Write the report to the state, and to a file named for the thread if there is an output folder."""
    text = render(state["title"], state.get("audited", []), state.get("findings", []))
    path = ""
    if state.get("output"):
        thread = str(config.get("configurable", {}).get("thread_id", "audit"))
        path = str(write(Path(state["output"]), f"code-audit-{thread}.md", text))
    note = f"The report on {state['title']} is written{f' to {path}' if path else ''}."
    return {"report": text, "report_path": path, "messages": [_say(note)]}


def close(state: Audit) -> dict[str, Any]:
    """End without a report."""
    return {"report": "", "messages": [_say(f"No report on {state['title']}: {state['reason'] or 'rejected'}.")]}


def _say(text: str) -> Message:
    return Message(role="assistant", content=text)


def _progress(audited: Sequence[FileResult], findings: Sequence[Finding]) -> str:
    names = ", ".join(result["file"] for result in audited)
    found = [f"{f['construct']} in {f['file']} line {f['line']}" for f in findings if f["severity"] != "low"]
    low = Counter(f["construct"] for f in findings if f["severity"] == "low")
    found += [f"{count} x {construct}" for construct, count in low.most_common()]
    broken = [f"{result['file']} cannot be parsed: {result['error']}" for result in audited if result["error"]]
    return f"I read {names}. " + ("; ".join(found + broken) if found or broken else "Nothing to report") + "."


def _answer(value: object) -> tuple[str, str]:
    """Decision and reason of what a person sent: a word, true or false, or an object with both."""
    if isinstance(value, dict):
        return _answer(value.get("decision"))[0], str(value.get("reason") or "")
    if isinstance(value, bool):
        return ("approve" if value else "reject"), ""
    word = str(value).strip().lower()
    return {"approved": "approve", "yes": "approve", "rejected": "reject", "no": "reject"}.get(word, word), ""


builder = StateGraph(Audit, input_schema=AuditInput)
builder.add_node("plan", plan)
builder.add_node("audit", audit)
builder.add_node("review", review)
builder.add_node("write_report", write_report)
builder.add_node("close", close)
builder.add_edge(START, "plan")
builder.add_conditional_edges("plan", after_batch)
builder.add_conditional_edges("audit", after_batch)
builder.add_edge("write_report", END)
builder.add_edge("close", END)
graph = builder.compile()
