"""What a caller of the HTTP API may do: the closed list of scopes, and named sets of them.

Each row of the route table names one scope. Keys, tokens and sessions carry scopes; a set is only a short way to name several.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """A permission, as keys and tokens name it."""

    API_READ = "api:read"
    THREADS_READ = "threads:read"
    THREADS_WRITE = "threads:write"
    STATES_READ = "states:read"
    STATES_WRITE = "states:write"
    RUNS_READ = "runs:read"
    RUNS_WRITE = "runs:write"
    SIGNALS_READ = "signals:read"
    SIGNALS_WRITE = "signals:write"
    APPROVALS_READ = "approvals:read"
    APPROVALS_ANSWER = "approvals:answer"
    SCHEDULES_READ = "schedules:read"
    SCHEDULES_WRITE = "schedules:write"
    BATCHES_READ = "batches:read"
    BATCHES_WRITE = "batches:write"
    GRAPHS_READ = "graphs:read"
    SEARCH_READ = "search:read"
    SUBSCRIPTIONS_READ = "subscriptions:read"
    SUBSCRIPTIONS_WRITE = "subscriptions:write"
    SUBSCRIPTIONS_APPROVALS = "subscriptions:approvals"
    DELIVERIES_READ = "deliveries:read"
    DELIVERIES_WRITE = "deliveries:write"
    CONSOLE_READ = "console:read"
    ARCHIVE_HOLD = "archive:hold"
    ARCHIVE_RESTORE = "archive:restore"
    DEAD_LETTERS_READ = "dead_letters:read"
    DEAD_LETTERS_WRITE = "dead_letters:write"
    METRICS_READ = "metrics:read"
    AUDIT_READ = "audit:read"
    KEYS_MANAGE = "keys:manage"
    TENANTS_ANY = "tenants:any"


MEANINGS: Final[Mapping[Scope, str]] = {
    Scope.API_READ: "See the version and the description of the API. Every caller has this scope.",
    Scope.THREADS_READ: "Read and list threads with their newest values.",
    Scope.THREADS_WRITE: "Make, change, copy, delete and prune threads.",
    Scope.STATES_READ: "Read states and histories.",
    Scope.STATES_WRITE: "Change the state of a thread at rest, also past a question.",
    Scope.RUNS_READ: "Read runs, wait for their ends, follow their streams.",
    Scope.RUNS_WRITE: "Start, retry, cancel and delete runs.",
    Scope.SIGNALS_READ: "List the signals of a thread.",
    Scope.SIGNALS_WRITE: "Send signals.",
    Scope.APPROVALS_READ: "Read questions to people.",
    Scope.APPROVALS_ANSWER: "Answer questions to people, which may permit effects; start runs with a `command`.",
    Scope.SCHEDULES_READ: "Read schedules and crons.",
    Scope.SCHEDULES_WRITE: "Make, change, trigger and remove schedules and crons, which start runs.",
    Scope.BATCHES_READ: "Read batches, their items and results.",
    Scope.BATCHES_WRITE: "Make, pause, resume, cancel and redrive batches, which start runs.",
    Scope.GRAPHS_READ: "See the graphs, as assistants too, with their drawings and schemas.",
    Scope.SEARCH_READ: "Search past states; see who is stuck.",
    Scope.SUBSCRIPTIONS_READ: "Read subscriptions.",
    Scope.SUBSCRIPTIONS_WRITE: "Make, change, test and remove subscriptions to events that carry no answer link.",
    Scope.SUBSCRIPTIONS_APPROVALS: "Subscribe to questions as well: their notices carry links that answer them.",
    Scope.DELIVERIES_READ: "Read notices and the attempts to deliver them.",
    Scope.DELIVERIES_WRITE: "Redrive dead notices.",
    Scope.CONSOLE_READ: "See the console.",
    Scope.ARCHIVE_HOLD: "Put threads under legal hold, and end holds.",
    Scope.ARCHIVE_RESTORE: "Bring archived threads back.",
    Scope.DEAD_LETTERS_READ: "Read dead letters with their whole records.",
    Scope.DEAD_LETTERS_WRITE: "Redrive and drop dead letters.",
    Scope.METRICS_READ: "Read the gateway's Prometheus metrics.",
    Scope.AUDIT_READ: "Read the audit log.",
    Scope.KEYS_MANAGE: "Make, list and revoke API keys of the own tenant, with no more scopes than the own ones.",
    Scope.TENANTS_ANY: "Act for any tenant, named by the header `Perdure-Tenant`, and read records that belong to none.",
}
"""One sentence for each scope, also in docs/security.md."""

EVERY: Final = frozenset(Scope)
IMPLIED: Final = frozenset({Scope.API_READ})
"""What every caller has."""
_OPERATING: Final = frozenset(
    {
        Scope.DEAD_LETTERS_READ,
        Scope.DEAD_LETTERS_WRITE,
        Scope.METRICS_READ,
        Scope.AUDIT_READ,
        Scope.ARCHIVE_HOLD,
        Scope.ARCHIVE_RESTORE,
        Scope.KEYS_MANAGE,
        Scope.TENANTS_ANY,
    }
)
_CLIENT: Final = EVERY - _OPERATING - {Scope.APPROVALS_ANSWER, Scope.SUBSCRIPTIONS_APPROVALS, Scope.STATES_WRITE}
SETS: Final[Mapping[str, frozenset[Scope]]] = {
    "reader": frozenset(scope for scope in EVERY - _OPERATING if scope.endswith(":read")),
    "client": _CLIENT,
    "chat": _CLIENT | {Scope.APPROVALS_ANSWER},
    "approver": IMPLIED | {Scope.APPROVALS_READ, Scope.APPROVALS_ANSWER},
    "admin": EVERY - {Scope.TENANTS_ANY},
    "all": EVERY,
}
"""Named sets. ``client``: a program that runs agents and answers no question; ``chat``: one whose user answers; ``admin``:
everything within one tenant."""


@dataclass(frozen=True, slots=True)
class Exempt:
    """In place of a scope, on a row that needs no caller: the reason."""

    why: str


Need = Scope | Exempt
"""What a row of the route table asks for."""


class UnknownScope(ValueError):
    """A name is neither a scope nor a named set."""


def scopes_of(names: Iterable[str]) -> frozenset[Scope]:
    """The scopes that these names mean: scopes, or sets.

    Raises:
        UnknownScope: a name is neither.

    """
    found: set[Scope] = set()
    for name in names:
        if name in SETS:
            found |= SETS[name]
        elif name in EVERY:
            found.add(Scope(name))
        else:
            raise UnknownScope(
                f"{name!r} is no scope and no set of scopes. Scopes: {', '.join(sorted(EVERY))}. Sets: {', '.join(SETS)}."
            )
    return frozenset(found)
