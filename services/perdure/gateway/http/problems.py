"""Every error that a client can see, as an RFC 9457 problem.

::

    PerdureError (perdure.chassis.errors)
    └── RequestProblem          carries the problem document, the status and further headers

Contract: ``type`` is ``urn:perdure:problem:<name>`` and stable; ``detail`` names the thing and says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perdure.chassis.errors import PerdureError
from perdure.schemas.problem import InvalidField, Problem

URN = "urn:perdure:problem:"

TITLES: dict[str, tuple[int, str]] = {
    "malformed-json": (400, "The body is not JSON"),
    "not-authorized": (401, "The caller is not known"),
    "issuer-unavailable": (503, "It cannot be told who calls"),
    "auth-unavailable": (503, "The project's auth handlers cannot be asked"),
    "auth-refused": (403, "The project's auth handlers refuse this"),
    "origin-refused": (403, "Pages of this origin may not use the gateway"),
    "host-refused": (403, "The gateway does not answer under this name"),
    "scope-missing": (403, "The caller may not do this"),
    "tenant-refused": (403, "The caller may not act for this tenant"),
    "unknown-route": (404, "There is nothing at this path"),
    "unknown-thread": (404, "There is no such thread"),
    "unknown-run": (404, "There is no such run"),
    "unknown-schedule": (404, "There is no such schedule"),
    "unknown-graph": (404, "There is no such graph"),
    "unknown-dead-letter": (404, "There is no such dead letter"),
    "unknown-checkpoint": (404, "There is no such checkpoint"),
    "unknown-approval": (404, "There is no such question"),
    "unknown-batch": (404, "There is no such batch"),
    "unknown-subscription": (404, "There is no such subscription"),
    "unknown-key": (404, "There is no such key"),
    "unknown-delivery": (404, "There is no such delivery"),
    "link-refused": (404, "This link does not work"),
    "method-not-allowed": (405, "This path does not take this method"),
    "thread-exists": (409, "The thread id is taken"),
    "thread-archived": (409, "The thread is archived"),
    "thread-not-archived": (409, "The thread is not archived"),
    "thread-held": (409, "The thread is under legal hold"),
    "thread-busy": (409, "A run of this thread is active"),
    "update-pending": (409, "The state update has not ended yet"),
    "update-unknown": (409, "Nobody knows whether the state update was made"),
    "schedule-busy": (409, "The schedule is being changed"),
    "batch-status": (409, "The batch is not in a status for this"),
    "nothing-to-redrive": (409, "The batch has no such items"),
    "upload-lost": (409, "The upload was given up"),
    "nothing-to-resume": (409, "The thread waits for nothing"),
    "run-ended": (409, "The run has ended"),
    "run-active": (409, "The run is active"),
    "run-not-failed": (409, "The run has not failed"),
    "thread-moved-on": (409, "The thread has gone on since"),
    "dead-letter-decided": (409, "Somebody decided about the dead letter already"),
    "redrive-refused": (409, "The dead letter cannot be redriven"),
    "signal-conflict": (409, "The idempotency key was used for another signal"),
    "already-answered": (409, "Somebody answered first"),
    "approval-expired": (409, "The question has expired"),
    "approval-closed": (409, "The agent went on without an answer"),
    "action-mismatch": (409, "The question is about another action"),
    "no-secret": (409, "The subscription has no secret"),
    "delivery-not-dead": (409, "Only dead deliveries are redriven"),
    "broken-question": (409, "The question cannot be answered"),
    "upload-stalled": (408, "The upload stands still"),
    "body-too-slow": (408, "The body comes too slowly"),
    "batch-too-large": (413, "The batch is too large"),
    "body-too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The body has a type that is not read here"),
    "quota-exceeded": (429, "A limit of the tenant is reached"),
    "invalid-request": (422, "The request is not valid"),
    "no-graph": (422, "The thread has no graph yet"),
    "update-refused": (422, "The graph refuses the update"),
    "idempotency-conflict": (422, "The idempotency key was used for another request"),
    "not-supported": (422, "This is not supported yet"),
    "bad-request": (400, "The request cannot be read"),
    "internal-error": (500, "The gateway failed"),
    "damaged-state": (500, "The stored state cannot be read"),
    "store-unavailable": (503, "The database does not answer"),
    "no-worker": (503, "No worker serves the graph"),
    "kafka-unavailable": (503, "Kafka does not answer"),
    "search-unavailable": (503, "The search index does not answer"),
    "search-behind": (503, "The search index is behind"),
    "busy": (503, "The gateway has no room for this now"),
    "not-ready": (503, "Not ready yet"),
}
"""Status and title by name: the complete list, also shown in the API description."""


class RequestProblem(PerdureError):
    """The answer to a request is a problem."""

    def __init__(
        self,
        name: str,
        detail: str,
        errors: Sequence[InvalidField] = (),
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        outcome: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        own_status, title = TITLES[name]
        self.status = status or own_status
        self.headers = dict(headers or {})
        self.problem = Problem(
            type=URN + name, title=title, status=self.status, detail=detail, errors=tuple(errors), outcome=outcome
        )
        self.retryable = self.status == 503

    def leave_out(self, text: str) -> None:
        """Leave a text out wherever the problem has it."""
        errors = tuple(one.model_copy(update={"detail": one.detail.replace(text, "")}) for one in self.problem.errors)
        detail = self.problem.detail.replace(text, "")
        self.problem = self.problem.model_copy(update={"detail": detail, "errors": errors})


def invalid(pointer: str, detail: str, position: int | None = None) -> RequestProblem:
    """One thing is wrong with the request, at ``position`` of what the pointer names if that is a text."""
    return invalid_fields((InvalidField(pointer=pointer, detail=detail, position=position),))


def invalid_fields(errors: Sequence[InvalidField]) -> RequestProblem:
    """Everything that is wrong with the request."""
    first = "; ".join(f"{error.pointer or 'body'}: {error.detail}" for error in errors[:3])
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    return RequestProblem("invalid-request", first + more, errors)


def not_supported(pointer: str, detail: str) -> RequestProblem:
    """Understood, and not supported yet."""
    return RequestProblem("not-supported", detail, (InvalidField(pointer=pointer, detail=detail),))


def store_unavailable() -> RequestProblem:
    """The database does not answer in time."""
    return RequestProblem(
        "store-unavailable",
        "The database does not answer. Try again; a write that was sent may still happen, so repeat it with the same "
        "Idempotency-Key or thread id.",
        headers={"Retry-After": "2"},
    )
