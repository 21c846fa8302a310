"""What every operation that starts a run takes, and the problems that it may answer."""

from __future__ import annotations

from perdure.gateway.http.route import BODY, TEXT, Parameter, idempotency_key_of

KEY = idempotency_key_of(
    "The same key with the same request answers the run that it started, with `Idempotent-Replayed: true`."
)
TRACE = Parameter("traceparent", TEXT, "W3C trace context; made when absent.", "header")
PREFER = Parameter(
    "Prefer",
    TEXT,
    "`respond-async`: answer 202. `return=representation`: answer 200. By default 200 for `fetch`.",
    "header",
)
START = (
    *BODY,
    "unknown-graph",
    "unknown-checkpoint",
    "nothing-to-resume",
    "idempotency-conflict",
    "not-supported",
    "not-ready",
)
