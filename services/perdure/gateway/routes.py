"""The route table: every path, its handler and what the API description says about it. Plain data."""

from __future__ import annotations

from perdure.gateway.handlers import answers, approvals, console, inbound, signals
from perdure.gateway.http.route import BODY, TEXT, Page, Parameter, Route, idempotency_key_of, page_of
from perdure.gateway.resources.named import THREAD
from perdure.schemas import http

SIGNAL_KEY = idempotency_key_of("The same key with the same request answers the signal that it sent.")
AFTER = Parameter("after", TEXT, "The `cursor` of the page before.")
# fmt: off
BEFORE_ARCHIVE: tuple[Route, ...] = (
    Route(
        "POST", "/threads/{thread_id}/signals/{name}", signals.send, "sendSignal",
        "Send a signal; it is kept until a wait of its name takes it", "Waits", {202: http.Signal}, http.SignalCreate,
        (SIGNAL_KEY,), (*BODY, *THREAD, "signal-conflict"),
    ),
    Route(
        "GET", "/threads/{thread_id}/signals", signals.list_signals, "listSignals", "Signals of a thread, oldest first",
        "Waits", {200: http.SignalPage},
        parameters=(page_of(20, 100), AFTER, Parameter("state", {"enum": ["free", "taken"]})),
        problems=THREAD,
    ),
    Route(
        "GET", "/approvals", approvals.list_approvals, "listApprovals", "Questions to people, oldest first", "Waits",
        {200: http.ApprovalPage},
        parameters=(
            page_of(20, 200), AFTER,
            Parameter("status", {"enum": ["open", "answered", "expired", "closed", "all"], "default": "open"}),
            Parameter("assigned_to", TEXT, "Only those that this person or group is asked now."),
            Parameter("thread_id", TEXT, "Only those of this thread."),
            Parameter("graph", TEXT, "Only those of this graph: a graph id or an assistant id."),
        ),
    ),
    Route(
        "GET", "/approvals/{approval_id}", approvals.get, "getApproval", "A question", "Waits", {200: http.Approval},
        problems=("unknown-approval",),
    ),
    Route(
        "POST", "/approvals/{approval_id}", approvals.answer, "answerApproval",
        "Answer a question and wake its agent; 200 for a repeat of the answer that did", "Waits",
        {200: http.Approval, 202: http.Approval}, http.ApprovalAnswer,
        problems=(
            *BODY, "unknown-approval", "already-answered", "approval-expired", "approval-closed", "action-mismatch",
            "broken-question",
        ),
    ),
    Route(
        "POST", "/inbound/email", inbound.email, "receiveMail",
        "A raw mail (`message/rfc822`): a reply to a notice becomes a signal to its thread", "Waits",
        {200: http.MailIgnored, 202: http.MailAccepted},
        parameters=(Parameter("Authorization", TEXT, "`Bearer` and `PERDURE_INBOUND_SECRET`, where that is set.", "header"),),
        problems=("not-authorized", "unsupported-media-type", "body-too-large"),
    ),
)
# fmt: on

CONSOLE = (
    Page("GET", "/", console.home),
    Page("GET", "/console", console.overview),
    Page("GET", "/console/batches", console.batches),
    Page("GET", "/console/batches/{batch_id}", console.batch),
    Page("GET", "/console/search", console.search),
    Page("GET", "/console/threads/{thread_id}", console.thread),
)
ANSWER = (Page("GET", "/answer/{token}", answers.show), Page("POST", "/answer/{token}", answers.post))
