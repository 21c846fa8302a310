"""Which handler of the project's ``auth`` governs which row of the route table (ADR 43).

Contract: a row of a scope in ``USER_SCOPES`` stands here, by the name of its operation, or callers that handlers name are refused.
Rows of other scopes are outside of the resources that handlers know: a user needs their scope by a permission ``perdure:<scope>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Bound(Enum):
    """What the conditions of the handlers are about."""

    QUERY = "query"
    """What the handler of the row finds: it applies them."""
    THREAD = "thread"
    """The thread in the path, which must be there."""
    THREAD_OR_NEW = "thread or new"
    """The thread in the path, if it is there."""
    THREAD_OF_BODY = "thread of body"
    """The thread that the body names, if it names one."""
    SCHEDULE = "schedule"
    QUESTION = "question"
    """The thread that asks the question in the path."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A handler that is asked.

    Attributes:
        binds: Its conditions hold for what is there already.
        makes: What it puts into the metadata is protected in what the request makes.

    """

    resource: str
    action: str
    binds: bool = True
    makes: bool = False


@dataclass(frozen=True, slots=True)
class Governed:
    """How one row is governed: who is asked, and what the conditions are about."""

    asks: tuple[Ask, ...]
    bound: Bound


READ, SEARCH = Ask("threads", "read"), Ask("threads", "search")
UPDATE = Ask("threads", "update", makes=True)
DELETE = Ask("threads", "delete")
RUN = Ask("threads", "create_run", makes=True)
RESUME = Ask("threads", "create_run")
CANCEL: Final = Ask("threads", "update")
"""Also asked for ``cancel_on_disconnect``."""
CRON = Ask("crons", "create", binds=False, makes=True)
CRON_READ, CRON_SEARCH = Ask("crons", "read"), Ask("crons", "search")
CRON_UPDATE, CRON_DELETE = Ask("crons", "update", makes=True), Ask("crons", "delete")
GRAPH_READ, GRAPH_SEARCH = Ask("assistants", "read"), Ask("assistants", "search")


def _of_thread(*asks: Ask) -> Governed:
    return Governed(asks, Bound.THREAD)


GOVERNED: Final[Mapping[str, Governed]] = {
    "createThread": Governed((Ask("threads", "create", makes=True),), Bound.QUERY),
    "searchThreads": Governed((SEARCH,), Bound.QUERY),
    "countThreads": Governed((SEARCH,), Bound.QUERY),
    "getThread": _of_thread(READ),
    "getThreadStorage": _of_thread(READ),
    "updateThread": _of_thread(UPDATE),
    "deleteThread": _of_thread(DELETE),
    "copyThread": _of_thread(READ, Ask("threads", "create", binds=False, makes=True)),
    "pruneThreads": Governed((DELETE,), Bound.QUERY),
    "holdThread": _of_thread(CANCEL),
    "releaseThread": _of_thread(CANCEL),
    "restoreThread": _of_thread(CANCEL),
    "getState": _of_thread(READ),
    "getStateAtCheckpoint": _of_thread(READ),
    "getStateAtCheckpointPost": _of_thread(READ),
    "getHistory": _of_thread(READ),
    "searchHistory": _of_thread(READ),
    "updateState": _of_thread(CANCEL),
    "createRunWithThread": Governed((RUN,), Bound.QUERY),
    "createRuns": Governed((RUN,), Bound.QUERY),
    "waitRunWithThread": Governed((RUN,), Bound.QUERY),
    "streamRunWithThread": Governed((RUN,), Bound.QUERY),
    "createRun": Governed((RUN,), Bound.THREAD_OR_NEW),
    "waitRun": Governed((RUN,), Bound.THREAD_OR_NEW),
    "streamRun": Governed((RUN,), Bound.THREAD_OR_NEW),
    "retryRun": _of_thread(RESUME),
    "listRuns": _of_thread(SEARCH),
    "getRun": _of_thread(READ),
    "joinRun": _of_thread(READ),
    "joinRunStream": _of_thread(READ),
    "joinThreadStream": _of_thread(READ),
    "cancelRun": _of_thread(CANCEL),
    "cancelRuns": Governed((CANCEL,), Bound.QUERY),
    "deleteRun": _of_thread(DELETE),
    "sendSignal": _of_thread(CANCEL),
    "listSignals": _of_thread(READ),
    "listApprovals": Governed((SEARCH,), Bound.QUERY),
    "getApproval": Governed((READ,), Bound.QUESTION),
    "answerApproval": Governed((RESUME,), Bound.QUESTION),
    "search": Governed((SEARCH,), Bound.QUERY),
    "listStuck": Governed((SEARCH,), Bound.QUERY),
    "createCron": Governed((CRON,), Bound.QUERY),
    "createThreadCron": _of_thread(CRON, RESUME),
    "searchCrons": Governed((CRON_SEARCH,), Bound.QUERY),
    "countCrons": Governed((CRON_SEARCH,), Bound.QUERY),
    "getCron": Governed((CRON_READ,), Bound.SCHEDULE),
    "updateCron": Governed((CRON_UPDATE,), Bound.SCHEDULE),
    "deleteCron": Governed((CRON_DELETE,), Bound.SCHEDULE),
    "createSchedule": Governed((CRON, RESUME), Bound.THREAD_OF_BODY),
    "listSchedules": Governed((CRON_SEARCH,), Bound.QUERY),
    "getSchedule": Governed((CRON_READ,), Bound.SCHEDULE),
    "updateSchedule": Governed((CRON_UPDATE,), Bound.SCHEDULE),
    "pauseSchedule": Governed((CRON_UPDATE,), Bound.SCHEDULE),
    "resumeSchedule": Governed((CRON_UPDATE,), Bound.SCHEDULE),
    "triggerSchedule": Governed((CRON_UPDATE,), Bound.SCHEDULE),
    "backfillSchedule": Governed((CRON_UPDATE,), Bound.SCHEDULE),
    "deleteSchedule": Governed((CRON_DELETE,), Bound.SCHEDULE),
    "listGraphs": Governed((GRAPH_SEARCH,), Bound.QUERY),
    "searchAssistants": Governed((GRAPH_SEARCH,), Bound.QUERY),
    "getAssistant": Governed((GRAPH_READ,), Bound.QUERY),
    "getAssistantGraph": Governed((GRAPH_READ,), Bound.QUERY),
    "getAssistantSchemas": Governed((GRAPH_READ,), Bound.QUERY),
}
"""By the name of the operation, as the API description has it."""
