"""One full and, where fields are optional, one minimal message of every type: what golden files are recorded from.

``python tests/contract/samples.py`` records what has no golden file yet; it never changes one.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from perdure.schemas import golden
from perdure.schemas.batches import BatchFinished, BatchThresholdReached
from perdure.schemas.catalogue import file_stem
from perdure.schemas.commands import CancelRun, StartReason, StartRun, StreamRun
from perdure.schemas.envelope import encode
from perdure.schemas.events import (
    ApprovalEscalated,
    CheckpointSaved,
    ErrorInfo,
    InterruptInfo,
    NoticeDead,
    NoticeDelivered,
    RunCancelled,
    RunFailed,
    RunInterrupted,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    StuckCode,
    ThreadArchived,
    ThreadDeleted,
    ThreadPruned,
    ThreadRecovered,
    ThreadRestored,
    ThreadStuck,
)
from perdure.schemas.message import Message
from perdure.schemas.stream import Chunk, StreamChunks
from perdure.schemas.validation import (
    Absolute,
    FetcherSource,
    Finding,
    HttpSource,
    MongoSource,
    NewerThan,
    OpenSearchSource,
    Premise,
    PremisesValidated,
    Range,
    Relative,
    UnchangedHash,
    ValidatePremises,
    Verdict,
    VerdictOutcome,
)

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

NOTICE = {
    "note": 4,
    "delivery_id": "msg_0f343b0931126a20f133d67c2b018a3b",
    "subscription_id": "0198f0c2-7a70-7e22-8b7f-6c5d4e3f2a1b",
    "kind": "completed",
    "channel": "webhook",
    "target": "https://example.com/...",
}
BATCH = {
    "tenant": "acme",
    "thread_id": "batch-7",
    "occurred_at": WHEN,
    "assistant_id": "audit",
    "total": 10,
    "succeeded": 7,
    "failed": 2,
    "cancelled": 1,
    "metadata": {"of": "Zoë"},
}
WAIT = f"{THREAD}:4b1c9a7e5d2f8063"
ASKED = ADDRESSED | {"wait_id": WAIT}
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
PREMISES = (
    Premise(
        name="price",
        source=HttpSource(url="https://quotes.example.com/ACME", headers={"Authorization": "${PERDURE_SOURCE_QUOTES}"}),
        pointer="/price",
        believed=10,
        rule=Relative(tolerance=0.01),
        timeout_s=2.5,
        attempts=5,
        on_violation="ask",
        on_unknown="ask",
    ),
    Premise(
        name="order",
        source=MongoSource(
            connection="crm", collection="orders", filter={"_id": {"$oid": "6531e2a0c1d2e3f405162738"}}, sort={"at": -1}
        ),
        pointer="/status",
        believed="öpen",
    ),
    Premise(
        name="seen",
        source=OpenSearchSource(connection="shop", index="orders", body={"query": {"match_all": {}}}),
        pointer="/hits/hits/0/_source/at",
        rule=NewerThan(max_age_s=60.0, than=WHEN),
    ),
    Premise(name="stock", source=FetcherSource(name="stock", arguments={"sku": 7}), rule=Range(low=1.0, high=9.5)),
    Premise(name="text", source=FetcherSource(name="text"), believed=DIGEST, rule=UnchangedHash()),
    Premise(name="weight", source=FetcherSource(name="weight"), believed=1.5, rule=Absolute(tolerance=0.1)),
)
FINDINGS = (
    Finding(
        name="price",
        holds=False,
        believed=10,
        fresh=12,
        drift=2.0,
        reason="believed 10, found 12: more than 1 % away",
        read_at=WHEN,
        attempts=2,
        outcome=VerdictOutcome.STALE,
    ),
    Finding(name="order", holds=None, reason="no answer", read_at=WHEN, outcome=VerdictOutcome.UNKNOWN),
)

SAMPLES: dict[str, Message] = {
    "perdure.run.start.v1": StartRun(**ADDRESSED, reason=StartReason.REGISTERED),
    "perdure.run.start.v1.recovered": StartRun(**ADDRESSED, reason=StartReason.RECOVERED),
    "perdure.run.cancel.v1": CancelRun(**ADDRESSED),
    "perdure.run.stream.v1": StreamRun(**ADDRESSED, modes=("messages-tuple", "custom"), subgraphs=True),
    "perdure.run.stream.v1.minimal": StreamRun(**ADDRESSED, modes=("events",)),
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
    "perdure.run.interrupted.v1.schema": RunInterrupted(
        **FULL, interrupts=(InterruptInfo(id="i-2", value="Go on?", response_schema={"type": "boolean"}),)
    ),
    "perdure.run.succeeded.v1": RunSucceeded(**FULL, checkpoint_id=CHECKPOINT, steps=5),
    "perdure.run.failed.v1": RunFailed(**FULL, checkpoint_id=CHECKPOINT, next=("fetch",), error=ERROR),
    "perdure.run.failed.v1.minimal": RunFailed(**MINIMAL, error=ErrorInfo(type="perdure.GraphUnknown", message="x")),
    "perdure.run.timed_out.v1": RunTimedOut(**FULL, checkpoint_id=CHECKPOINT, next=("fetch",), error=ERROR),
    "perdure.run.cancelled.v1": RunCancelled(**FULL, checkpoint_id=CHECKPOINT, next=("fetch",)),
    "perdure.validation.requested.v1": ValidatePremises(
        **ASKED, premises=PREMISES, action_digest=DIGEST, verdict_expires_s=60.0, due_at=WHEN
    ),
    "perdure.validation.requested.v1.minimal": ValidatePremises(
        **ASKED, premises=PREMISES[4:5], action_digest=DIGEST, verdict_expires_s=1.5
    ),
    "perdure.validation.done.v1": PremisesValidated(
        **ASKED,
        verdict=Verdict(
            outcome=VerdictOutcome.STALE, findings=FINDINGS, action_digest=DIGEST, read_at=WHEN, expires_at=WHEN
        ),
    ),
    "perdure.run.started.v1.expected": RunStarted(**FULL, worker_id="host-1-42", expected_by=WHEN),
    "perdure.run.started.v1.next": RunStarted(**FULL, worker_id="host-1-42", expected_by=WHEN, next=("Login",)),
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
    "perdure.thread.archived.v1": ThreadArchived(
        **FULL,
        note=3,
        object="acme/7c/0198f0c2@7-0198f0c2.zst",
        object_bytes=48_213,
        status="error",
        checkpoint_id=CHECKPOINT,
        next=("fetch",),
        error=ERROR,
    ),
    "perdure.thread.archived.v1.minimal": ThreadArchived(
        **MINIMAL, note=1, object="acme/7c/0198f0c2@0-0198f0c2.zst", object_bytes=0, status="success"
    ),
    "perdure.thread.restored.v1": ThreadRestored(
        **FULL, note=4, by="Zoë", status="error", checkpoint_id=CHECKPOINT, next=("fetch",), error=ERROR
    ),
    "perdure.thread.restored.v1.minimal": ThreadRestored(**MINIMAL, note=2, by="perdure", status="success"),
    "perdure.thread.pruned.v1": ThreadPruned(**FULL, note=5, removed=((2, 40), (43, 43))),
    "perdure.thread.pruned.v1.minimal": ThreadPruned(**MINIMAL, note=1, removed=()),
    "perdure.run.succeeded.v1.quiet": RunSucceeded(**FULL, checkpoint_id=CHECKPOINT, quiet=True),
    "perdure.thread.deleted.v1": ThreadDeleted(**FULL, note=999),
    "perdure.thread.deleted.v1.minimal": ThreadDeleted(**MINIMAL, note=999),
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
    "perdure.notice.delivered.v1": NoticeDelivered(**FULL, **NOTICE, attempts=2),
    "perdure.notice.dead.v1": NoticeDead(**FULL, **NOTICE, attempts=0, reason="answered 410: the receiver is gone"),
    "perdure.batch.finished.v1": BatchFinished(**BATCH, status="completed", started_at=WHEN),
    "perdure.batch.threshold_reached.v1": BatchThresholdReached(**BATCH, threshold=0.5, action="paused", occurrence=2),
    "perdure.approval.escalated.v1.minimal": ApprovalEscalated(
        **MINIMAL, note=1, wait_id=f"{THREAD}:i-1", question="Go on?", escalations=1
    ),
    "perdure.stream.chunks.v1": StreamChunks(
        tenant="default",
        thread_id=THREAD,
        run_id=RUN,
        epoch=1,
        seq=7,
        first=3,
        chunks=(Chunk(mode="messages", ns="agent:1", data=[{"type": "AIMessageChunk", "id": "m-1"}, {}]),),
    ),
    "perdure.stream.chunks.v1.durable": StreamChunks(
        tenant="default", thread_id=THREAD, run_id=RUN, epoch=1, seq=8, before=3
    ),
    "perdure.stream.chunks.v1.modes": StreamChunks(
        **ADDRESSED, epoch=2, seq=9, before=3, modes=("custom", "messages"), subgraphs=True
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
