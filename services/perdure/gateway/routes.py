"""The route table: every path, its handler and what the API description says about it. Plain data."""

from __future__ import annotations

from perdure.gateway.handlers import answers, approvals, console, inbound, signals, stuck, system
from perdure.gateway.http.route import BODY, TEXT, Handle, Parameter, Route, idempotency_key_of, page_of
from perdure.gateway.resources.named import THREAD
from perdure.schemas import http, stuck_http

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

STUCK: tuple[Route, ...] = (
    Route(
        "GET", "/stuck", stuck.list_stuck, "listStuck", "Who is stuck now; with a time, who got stuck in it", "Search",
        {200: stuck_http.StuckPage},
        parameters=(
            page_of(20, 200), Parameter("cursor", TEXT, "The `cursor` of the page before."),
            Parameter("node", TEXT, "At this node. Several with commas."),
            Parameter("graph", TEXT, "Of this graph. Several with commas."),
            Parameter("thread_id", TEXT, "Only these threads."),
            Parameter("code", TEXT, "`overdue`, `unclaimed`, `wait_overdue` or `poison`. Several with commas."),
            Parameter("since", TEXT, "Got stuck at or after: ISO 8601, `now-2h`, `today`, `yesterday`. UTC."),
            Parameter("until", TEXT, "Got stuck before; as `since`."),
        ),
        problems=("search-unavailable",),
    ),
)

SYSTEM: tuple[Route, ...] = (
    Route("GET", "/ok", system.ok, "ok", "Alive", "System", {200: http.Alive}),
    Route("GET", "/ready", system.ready, "ready", "Ready", "System", {200: http.Readiness, 503: http.Readiness}),
    Route("GET", "/metrics", system.metrics, "metrics", "Prometheus metrics", "System", {200: "Prometheus text."}),
    Route("GET", "/info", system.info, "info", "Version and features", "System", {200: http.Info}),
    Route("GET", "/openapi.json", system.openapi, "openapi", "This description", "System", {200: "OpenAPI 3.1."}),
)
# fmt: on

PAGES: tuple[tuple[str, str, Handle], ...] = (
    ("GET", "/", console.home),
    ("GET", "/console", console.overview),
    ("GET", "/console/batches", console.batches),
    ("GET", "/console/batches/{batch_id}", console.batch),
    ("GET", "/console/search", console.search),
    ("GET", "/console/threads/{thread_id}", console.thread),
    ("GET", "/docs", system.page),
    ("GET", "/docs/openapi.json", system.page_openapi),
    ("GET", "/docs/{name}", system.asset),
    ("GET", "/answer/{token}", answers.show),
    ("POST", "/answer/{token}", answers.post),
)
"""What is for people, and not in the description; what answers GET answers HEAD, too."""
