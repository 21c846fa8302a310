"""OpenSearch Dashboards: the saved objects that operators start with, in one file to import.

Contract: generated (``python -m perdure.schemas.generate``) from the index mapping. The time picker works on states. Threads have
no time field there: who is stuck now is stuck however long ago it began.

Outside: loading them (``docker-compose.yml``, ``docs/stuck.md``).
"""

from __future__ import annotations

import json
from typing import Final

from perdure.schemas.dashboard_objects import (
    Object,
    all_of,
    bars,
    before_now,
    count,
    dashboard,
    index_pattern,
    is_,
    measure,
    number,
    of_,
    over_time,
    pie,
    saved_query,
    search,
    table,
    terms,
)
from perdure.schemas.events import CheckpointSaved, ThreadRecovered, ThreadStuck
from perdure.schemas.index import STATES, THREADS

FILE: Final = "deploy/dashboards/perdure.ndjson"
NODE: Final = "Login"
"""The node of the example; who copies it writes another."""
PLACE: Final = ("thread_id", "graph", "next")
STUCK_COLUMNS: Final = (*PLACE, "stuck.code", "stuck.reason", "stuck.since", "expected_by", "tenant")

STUCK_NOW: Final = is_("status", "stuck")
GOT_STUCK: Final = of_(ThreadStuck)
AT_NODE: Final = all_of(GOT_STUCK, is_("next", NODE))
FAILED: Final = is_("status", "error", "timeout")
STEPS: Final = of_(CheckpointSaved)


def objects() -> list[Object]:
    """Every saved object; what is referred to stands before what refers to it."""
    patterns = [index_pattern(STATES, "occurred_at"), index_pattern(THREADS, None)]
    return [*patterns, *_stuck(), *_at_work()]


def _stuck() -> list[Object]:
    now = search("perdure-stuck-now", "Stuck now", "Threads that stand still now.", THREADS, STUCK_NOW, STUCK_COLUMNS)
    got = search(
        "perdure-got-stuck",
        "Got stuck",
        "Every time a thread was noticed to stand still.",
        STATES,
        GOT_STUCK,
        STUCK_COLUMNS,
    )
    at_node = search(
        "perdure-got-stuck-at-node", f"Got stuck at the {NODE} node", f"Change {NODE} to your node.", STATES, AT_NODE,
        STUCK_COLUMNS,
    )  # fmt: skip
    late = search(
        "perdure-late", "Late, and not marked yet", "They run, and should have gone on.", THREADS,
        all_of(is_("status", "running"), before_now("expected_by")), (*PLACE, "status", "expected_by", "tenant"),
    )  # fmt: skip
    recovered = search(
        "perdure-recovered", "Recovered", "Threads that were stuck and went on.", STATES, of_(ThreadRecovered),
        (*PLACE, "status", "tenant"),
    )  # fmt: skip
    yesterday = saved_query(
        "perdure-stuck-at-node-yesterday", f"Stuck at the {NODE} node yesterday", f"Change {NODE} to your node.", AT_NODE,
        "now-1d/d", "now-1d/d",
    )  # fmt: skip
    many = number("perdure-stuck-now-count", "Agents stuck now", THREADS, STUCK_NOW, count("stuck now"))
    why = pie(
        "perdure-stuck-now-why", "Why", THREADS, STUCK_NOW, [count("threads"), terms("stuck.code", "reason", "segment")]
    )
    where = bars(
        "perdure-stuck-now-where",
        "Where",
        THREADS,
        STUCK_NOW,
        [count("threads"), terms("next", "node", "segment")],
        lying=True,
    )
    times = bars(
        "perdure-got-stuck-times", "Got stuck, by node", STATES, GOT_STUCK,
        [count("times stuck"), over_time("when"), terms("next", "node", "group", 10)],
    )  # fmt: skip
    nodes = table(
        "perdure-got-stuck-nodes", "Nodes that agents get stuck at", STATES, GOT_STUCK,
        [
            count("times stuck"), measure("cardinality", "thread_id", "threads"), measure("max", "occurred_at", "last time"),
            terms("graph", "graph", "bucket"), terms("next", "node", "bucket"), terms("stuck.code", "reason", "bucket"),
        ],
    )  # fmt: skip
    shown = dashboard(
        "perdure-stuck", "Stuck agents", "Who stands still now, where, why, and who did in the time above.",
        [(9, [many, why, where]), (14, [now]), (12, [times, nodes]), (14, [got]), (12, [late, recovered])], "now-7d",
    )  # fmt: skip
    return [now, got, at_node, late, recovered, yesterday, many, why, where, times, nodes, shown]


def _at_work() -> list[Object]:
    running = search(
        "perdure-running", "At work", "Threads that run now.", THREADS, is_("status", "running"),
        (*PLACE, "step", "expected_by", "tenant"),
    )  # fmt: skip
    waiting = search(
        "perdure-waiting", "Waiting", "Threads that wait for the clock, an event or a person.", THREADS,
        is_("status", "interrupted"), (*PLACE, "wait.text", "expected_by", "tenant"),
    )  # fmt: skip
    failed = search(
        "perdure-failed", "Failed", "Runs that ended with an error or a time-out.", STATES, FAILED,
        ("thread_id", "graph", "error.node", "error.type", "error.message", "tenant"),
    )  # fmt: skip
    everybody = number("perdure-threads-count", "Agents", THREADS, "", measure("cardinality", "thread_id", "agents"))
    states = pie(
        "perdure-threads-status", "What they do", THREADS, "", [count("threads"), terms("status", "status", "segment")]
    )
    graphs = bars(
        "perdure-threads-graphs", "Graphs", THREADS, "",
        [count("threads"), terms("graph", "graph", "segment"), terms("status", "status", "group")], lying=True,
    )  # fmt: skip
    steps = bars(
        "perdure-steps", "Supersteps", STATES, STEPS,
        [count("supersteps"), over_time("when"), terms("graph", "graph", "group", 10)],
    )  # fmt: skip
    failures = bars(
        "perdure-failures", "Failures, by node", STATES, FAILED,
        [count("failures"), over_time("when"), terms("error.node", "node", "group", 10)],
    )  # fmt: skip
    pace = table(
        "perdure-nodes", "How long nodes take", STATES, STEPS,
        [
            count("supersteps"), measure("avg", "duration_ms", "average"),
            measure("percentiles", "duration_ms", "of 100 supersteps", percents=[50, 95, 99]),
            measure("max", "duration_ms", "longest"), terms("graph", "graph", "bucket"), terms("nodes", "node", "bucket", 50),
        ],
    )  # fmt: skip
    shown = dashboard(
        "perdure-at-work", "Agents at work", "What all agents do, how fast their nodes are, and what fails.",
        [
            (9, [everybody, states, graphs]), (12, [steps, failures]), (14, [pace]),
            (14, [running, waiting]), (14, [failed]),
        ],
        "now-24h",
    )  # fmt: skip
    return [running, waiting, failed, everybody, states, graphs, steps, failures, pace, shown]


def generated_files() -> dict[str, bytes]:
    """The file that is generated from here, by path relative to the repository."""
    lines = "".join(json.dumps(one, sort_keys=True, ensure_ascii=False) + "\n" for one in objects())
    return {FILE: lines.encode()}
