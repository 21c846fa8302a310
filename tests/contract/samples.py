"""One full and, where fields are optional, one minimal message of every type: what golden files are recorded from.

``python tests/contract/samples.py`` records what has no golden file yet; it never changes one.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from perdure.schemas import golden
from perdure.schemas.catalogue import file_stem
from perdure.schemas.commands import CancelRun, StartReason, StartRun
from perdure.schemas.envelope import encode
from perdure.schemas.events import (
    ApprovalEscalated,
    CheckpointSaved,
    ErrorInfo,
    InterruptInfo,
    RunCancelled,
    RunFailed,
    RunInterrupted,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    StuckCode,
    ThreadRecovered,
    ThreadStuck,
)
from perdure.schemas.message import Message

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / golden.FOLDER

WHEN = datetime(2026, 11, 23, 8, 30, 0, 123456, tzinfo=UTC)
THREAD = "0198f0c2-7a54-7c11-9d6e-3a2f8b1c4d5e"
RUN = "0198f0c2-7a60-7e22-8b7f-6c5d4e3f2a1b"
CHECKPOINT = "1f0a1b2c-3d4e-6f50-8001-9a8b7c6d5e4f"
ADDRESSED = {"tenant": "acme", "thread_id": THREAD, "run_id": RUN}
MINIMAL = ADDRESSED | {"graph_id": "audit", "assistant_id": "audit", "seq": 0, "epoch": 1, "occurred_at": WHEN}
FULL = MINIMAL | {"graph_version": "b2:5f3a", "seq": 7, "epoch": 2, "metadata": {"käufer": "Zoë", "tags": [1, None]}}
ERROR = ErrorInfo(
    type="httpx.ReadTimeout", message='no answer from "shop"\nwithin 30 s', node="fetch", traceback="Traceback ..."
)

SAMPLES: dict[str, Message] = {
    "perdure.run.start.v1": StartRun(**ADDRESSED, reason=StartReason.REGISTERED),
    "perdure.run.start.v1.recovered": StartRun(**ADDRESSED, reason=StartReason.RECOVERED),
    "perdure.run.cancel.v1": CancelRun(**ADDRESSED),
    "perdure.run.started.v1": RunStarted(**FULL, worker_id="host-1-42"),
    "perdure.checkpoint.saved.v1": CheckpointSaved(
        **FULL,
        checkpoint_id=CHECKPOINT,
        checkpoint_ns="child:1",
        parent_checkpoint_id="1f0a1b2c-3d4e-6f50-8000-9a8b7c6d5e4f",
        step=3,
        source="loop",
        nodes=("parse", "classify"),
        next=("report",),
        channels=("messages", "findings"),
        text='eval("1 + 1") – Zeile 12',
        text_truncated=True,
        duration_ms=12.5,
    ),
    "perdure.checkpoint.saved.v1.minimal": CheckpointSaved(
        **MINIMAL, checkpoint_id=CHECKPOINT, step=-1, source="input"
    ),
    "perdure.run.interrupted.v1": RunInterrupted(
        **FULL,
        checkpoint_id=CHECKPOINT,
        next=("approve",),
        interrupts=(InterruptInfo(id="i-1", value={"question": "Go on?", "amount": 82000}),),
    ),
    "perdure.run.succeeded.v1": RunSucceeded(**FULL, checkpoint_id=CHECKPOINT, steps=5),
    "perdure.run.failed.v1": RunFailed(**FULL, checkpoint_id=CHECKPOINT, next=("fetch",), error=ERROR),
    "perdure.run.failed.v1.minimal": RunFailed(**MINIMAL, error=ErrorInfo(type="perdure.GraphUnknown", message="x")),
    "perdure.run.timed_out.v1": RunTimedOut(**FULL, checkpoint_id=CHECKPOINT, next=("fetch",), error=ERROR),
    "perdure.run.cancelled.v1": RunCancelled(**FULL, checkpoint_id=CHECKPOINT, next=("fetch",)),
    "perdure.run.started.v1.expected": RunStarted(**FULL, worker_id="host-1-42", expected_by=WHEN),
    "perdure.checkpoint.saved.v1.expected": CheckpointSaved(
        **MINIMAL, checkpoint_id=CHECKPOINT, step=0, source="loop", next=("Login",), expected_by=WHEN
    ),
    "perdure.run.interrupted.v1.expected": RunInterrupted(**FULL, checkpoint_id=CHECKPOINT, expected_by=WHEN),
    "perdure.thread.stuck.v1": ThreadStuck(
        **FULL,
        note=1,
        code=StuckCode.OVERDUE,
        reason="node Login has run for 12 min; 1 min was expected",
        next=("Login",),
        since=WHEN,
        expected_by=WHEN,
    ),
    "perdure.thread.stuck.v1.minimal": ThreadStuck(
        **MINIMAL, note=2, code=StuckCode.UNCLAIMED, reason="no worker claims it", since=WHEN
    ),
    "perdure.thread.recovered.v1": ThreadRecovered(
        **FULL, note=2, code=StuckCode.OVERDUE, stuck_since=WHEN, status="running", next=("Cart",)
    ),
    "perdure.approval.escalated.v1": ApprovalEscalated(
        **FULL,
        note=3,
        wait_id=f"{THREAD}:i-1",
        question="Go on?",
        asked="ann",
        assigned_to="ben",
        escalations=1,
        next=("approve",),
        expected_by=WHEN,
    ),
    "perdure.approval.escalated.v1.minimal": ApprovalEscalated(
        **MINIMAL, note=1, wait_id=f"{THREAD}:i-1", question="Go on?", escalations=1
    ),
}


def recorded(message: Message) -> bytes:
    """A golden file of the message."""
    record = encode(
        message,
        id=getattr(message, "event_id", f"{RUN}:start:1"),
        source="perdure/gateway/host-1-42",
        correlation_id=RUN,
        causation_id=f"{RUN}:start:1",
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        time=WHEN,
    )
    return golden.dump(record)


def main() -> None:
    """Record what is missing."""
    for name, message in SAMPLES.items():
        if not name.startswith(file_stem(type(message))):
            raise SystemExit(f"{name} is no case of {file_stem(type(message))}")
        path = FOLDER / f"{name}.json"
        if path.exists():
            continue
        data = recorded(message)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        with (FOLDER / golden.SUMS).open("a") as sums:
            sums.write(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
