"""The worker: the runs that this process owns, from claim to settlement.

Contract: at most ``max_open_runs`` at once. Every owned run ends in exactly one of four ways: its end is recorded; it is handed
over; it is found to have another owner and dropped; or it is put back after a sequence number of it was taken. Of runs that lost
several workers few are executed at a time, so that the next crash shows whose it is (ADR 10). Runs of graphs that this worker
does not serve are left to workers that do (ADR 24).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from contextvars import Context
from datetime import datetime
from functools import partial

from perdure.agent_step import metrics
from perdure.agent_step.audit import Audit, Ownership, report
from perdure.agent_step.backlog import Backlog
from perdure.agent_step.chunks import Asked, RunChunks
from perdure.agent_step.claims import Claimed
from perdure.agent_step.domain import Outcome, UnknownGraphError, error_info
from perdure.agent_step.execution import Execution, HandedOver, Lost, StopReason, cancelled_before
from perdure.agent_step.history import Beginning, append, begin, entries_from, entries_of
from perdure.agent_step.lease import Owned
from perdure.agent_step.logs import log_as, log_ended, log_started
from perdure.agent_step.ports import Ports
from perdure.agent_step.publisher import SOURCE, RunEvents
from perdure.agent_step.settings import AgentStepSettings
from perdure.agent_step.updating import Updating, concluded, is_update, start_over
from perdure.chassis.assignments import Assignment
from perdure.chassis.clock import after
from perdure.chassis.group_read import GroupRead
from perdure.chassis.telemetry import logger
from perdure.checkpoint.errors import Fenced
from perdure.registry.crashes import is_suspect, together
from perdure.registry.runs import publish_start
from perdure.schemas.commands import StartReason, StreamRun
from perdure.schemas.documents import RunDocument, RunStatus
from perdure.schemas.message import Message

log = logger(__name__)

HELD_AT_ONCE = 50
"""Suspects that are tried again at once."""
DRAIN_POLL_S = 0.05


class ShuttingDown(Exception):
    """The worker claims nothing any more; the command is left, unstored, to the next owner of its partition."""

    retryable = True


class Worker:
    """Owns and executes runs."""

    def __init__(self, settings: AgentStepSettings, ports: Ports) -> None:
        self._settings = settings
        self._ports = ports
        self._open: dict[str, Execution | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._claiming = 0
        self._one_claim = asyncio.Lock()
        self._suspects: dict[str, int] = {}
        """Crashes, by run, of the runs here that lost several workers."""
        self._together = partial(together, limit=settings.crash_limit, most=settings.max_open_runs)
        self._held: dict[str, None] = {}
        self._owning: dict[str, Ownership] = {}
        """The task that owns each run, from its claim to its end here."""
        self._audit = Audit(settings.idle_run_s, ports.claims.under_way)
        self._idle: dict[asyncio.Task[None], str] = {}
        """Tasks that were cancelled because their runs stood still, and why."""
        self._draining = False
        self._ending = False
        self._leased = asyncio.Event()
        self._leased.set()
        self._next_pending: GroupRead[str, str] = GroupRead(
            ports.claims.oldest_pending, availability=ports.saver.availability
        )

    def room(self) -> int:
        """How many more runs may be claimed now; 0 while the database or the lease is away, or the worker is ending."""
        if self._draining or not self._leased.is_set() or not self._ports.saver.availability.available:
            return 0
        return max(0, self._settings.max_open_runs - len(self._open) - self._claiming)

    @property
    def open_runs(self) -> int:
        """Runs owned at this moment."""
        return len(self._open)

    async def start(self, thread_ids: Collection[str]) -> None:
        """Claim what is due on these threads; returns when the claims are durable, not when the runs end.

        Raises:
            ShuttingDown: the worker ends; nothing was claimed.

        """
        await self._leased.wait()
        self._claiming += len(thread_ids)
        try:
            async with self._one_claim:
                if self._draining:
                    raise ShuttingDown
                claim = await self._ports.claims.claim(
                    thread_ids, suspects=self._suspects.values(), together=self._together
                )
                self._suspects |= {one.run["_id"]: one.run["crashes"] for one in claim.won if is_suspect(one.run)}
        finally:
            self._claiming -= len(thread_ids)
        self._held |= dict.fromkeys(claim.held)
        self.cancel(claim.superseded)
        for one in claim.won:
            self._open[one.run["_id"]] = None
            task = asyncio.create_task(self._own(one), name=f"run {one.run['_id']}")
            self._owning[one.run["_id"]] = Ownership(one.run["epoch"], task)
            self._keep(task)
        metrics.OPEN.set(len(self._open))

    async def cancel_requested(self, run_ids: Sequence[str]) -> list[str]:
        """Those of the runs whose document says that somebody wants them cancelled."""
        return await self._ports.claims.cancel_requested(run_ids)

    def cancel(self, run_ids: Sequence[str]) -> list[str]:
        """Cancel those that are executed here; the others."""
        others = []
        for run_id in run_ids:
            execution = self._open.get(run_id)
            if execution is not None:
                execution.stop(StopReason.CANCELLED)
            elif run_id not in self._open:
                others.append(run_id)
        return others

    async def stream(self, commands: Sequence[StreamRun]) -> None:
        """Send more of the runs that are executed here; a request for a run of another worker is left in the run's document."""
        elsewhere = [one for one in commands if not self._ports.streams.ask(one)]
        if elsewhere:
            await self._ports.claims.ask_owners(elsewhere)

    def is_foreign(self, command: Message) -> bool:
        """Whether a command is about a run that is executed here, and says that it is another tenant's or thread's."""
        execution = self._open.get(getattr(command, "run_id", ""))
        return execution is not None and execution.is_of != (command.tenant, command.thread_id)

    def lose_everything(self) -> None:
        """The lease is lost: others may own the runs by now. Claims nothing until :meth:`resume`."""
        self._leased.clear()
        for execution in self._open.values():
            if execution is not None:
                execution.stop(StopReason.LOST)

    def resume(self) -> None:
        """There is a lease again."""
        self._leased.set()

    async def take_unserved(self) -> None:
        """Claim runs of the graphs served here whose commands went to workers that do not serve them (ADR 24)."""
        if room := self.room():
            threads = await self._ports.claims.unserved(room)
            if threads and self.room():
                await self.start(threads)

    def audit(self, owned: Sequence[Owned]) -> None:
        """Hold the runs that the database says this worker owns against those that it executes; called at every heartbeat."""
        self.cancel([one.run_id for one in owned if one.cancelled])
        for one in owned:
            if one.asked is not None:
                self._ports.streams.ask_more(one.run_id, Asked.of(one.asked))
        for one in self._audit.not_executed(owned, self._owning):
            self._keep(asyncio.create_task(self._give_back(one), name=f"give back {one.run_id}"))
        available = self._ports.saver.availability.available
        for run_id in self._audit.idle(self._owning, self._progress, available):
            task = self._owning[run_id].task
            self._idle[task] = report(run_id, task, self._settings.idle_run_s)
            task.cancel()

    def _progress(self, run_id: str) -> object:
        execution = self._open.get(run_id)
        return execution.scope.next_seq if execution is not None else None

    async def _give_back(self, one: Owned) -> None:
        run = await self._ports.claims.owned(one.run_id, one.epoch)
        if run is None:
            return
        metrics.GIVEN_BACK.labels(reason="not_executed").inc()
        log.error("run.not_executed", run_id=run["_id"], thread_id=run["thread_id"], epoch=run["epoch"])
        await self._put_back(run, StartReason.RECOVERED)

    async def drain(self, grace_s: float) -> None:
        """Hand every run over: at the end of its superstep, or at once when the grace period (seconds) is over.

        A claim under way is waited for; what it won is handed over as well.
        """
        self._draining = True
        for execution in self._open.values():
            if execution is not None:
                execution.drain()
        await self._until_nothing_is_owned(grace_s * 0.7)
        self._ending = True
        for execution in self._open.values():
            if execution is not None:
                execution.stop(StopReason.SHUTDOWN)
        await self._until_nothing_is_owned(grace_s * 0.3)
        if self._owning:
            log.warning("runs.left_to_recovery", run_ids=list(self._owning))

    async def _until_nothing_is_owned(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (self._tasks or self._claiming) and time.monotonic() < until:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=DRAIN_POLL_S, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(DRAIN_POLL_S)

    async def _own(self, claimed: Claimed) -> None:
        run = claimed.run
        log_as(run)
        backlog = self._backlog(claimed)
        chunks = self._ports.streams.of(run, claimed.payload)
        events = RunEvents(self._ports.producer, run, self._settle, backlog, chunks.durable)
        try:
            await self._carry(claimed, events, backlog, chunks)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task not in self._idle:
                raise
            task.uncancel()
            await self._ports.claims.release_crashed(run, self._idle.pop(task), self._settings.crash_backoff_s)
        except (Fenced, Lost):
            metrics.LOST.inc()
            log.warning("run.lost", run_id=run["_id"], thread_id=run["thread_id"], epoch=run["epoch"])
            await self._put_back(run, StartReason.RECOVERED)
        except Exception as error:
            log.exception("run.abandoned", run_id=run["_id"], thread_id=run["thread_id"], epoch=run["epoch"])
            # The scheduler publishes its start when the back-off is over.
            why = f"{type(error).__name__}: {error}"
            await self._ports.claims.release_crashed(run, why, self._settings.crash_backoff_s)
        finally:
            chunks.close()
            await backlog.close()
            self._forget(run)
            metrics.OPEN.set(len(self._open))
            self._start_held()

    def _forget(self, run: RunDocument) -> None:
        """The run is not owned here any more, unless it was claimed once more since it was given back."""
        if self._owning[run["_id"]].epoch == run["epoch"]:
            del self._owning[run["_id"]]
            self._open.pop(run["_id"], None)
            self._suspects.pop(run["_id"], None)

    def _start_held(self) -> None:
        """Try the suspects that there was no room for again; those that there still is none for are held again."""
        if self._held and self.room():
            threads = list(self._held)[: min(self.room(), HELD_AT_ONCE)]
            for thread_id in threads:
                del self._held[thread_id]
            self._keep(asyncio.create_task(self.start(threads), name="held suspects", context=Context()))

    def _backlog(self, claimed: Claimed) -> Backlog:
        """What cannot be published of the run's thread, runs included whose events are published again before it."""
        run = claimed.run
        runs = {one["_id"]: one for one in (*claimed.unsettled, run)}
        read = partial(entries_from, self._ports.saver, run["thread_id"])
        return Backlog(self._ports.producer, runs, read, SOURCE)

    async def _carry(self, claimed: Claimed, events: RunEvents, backlog: Backlog, chunks: RunChunks) -> None:
        """From the claim to the recorded end, or to the hand-over."""
        run = claimed.run
        pace = self._ports.paces.get(run["graph_id"])
        expect = pace.by if pace is not None else self._at_once
        beginning = await begin(self._ports.saver, claimed, run["owner"] or "", expect)
        if beginning.read_back:
            # Another run of the thread, older by the clock of its gateway, may have been executed meanwhile.
            claimed = await self._ports.claims.with_thread(claimed)
        chunks.begin(beginning.next_seq - 1)
        for before in claimed.unsettled:
            await self._publish_again(before, backlog)
        for entry in beginning.entries:
            events.publish(entry)
        if beginning.ended is not None:
            seq, outcome = beginning.ended_seq, beginning.ended
        else:
            log_started(run, beginning.waiting_at)
            started_at = time.perf_counter()
            seq, executed = await self._execute(claimed, beginning, events, chunks)
            if executed is None:
                return
            outcome = await self._undone(claimed, beginning, executed)
            fields = outcome.event_fields()
            events.publish(
                await append(self._ports.saver, run, seq, outcome.status.value, fields, undone=outcome.undone)
            )
            log_ended(run, outcome, time.perf_counter() - started_at)
            metrics.ENDED.labels(status=outcome.status.value).inc()
        if outcome.undone:  # before the documents say that the run ended: until then it is recovered if we die
            own = [entry["seq"] for entry in beginning.entries]
            await self._ports.saver.undo(run["thread_id"], run["_id"], min(own), seq)
        settled = await events.end()
        await self._ports.endings.project(claimed, outcome, first_seq=beginning.first_seq, seq=seq, settled=settled)
        if not settled:
            events.settle_later()
        if (enqueued := await self._next_pending.get(run["thread_id"])) is not None:
            self._publish_start(run, StartReason.ENQUEUED, enqueued)

    async def _undone(self, claimed: Claimed, beginning: Beginning, outcome: Outcome) -> Outcome:
        """The outcome; of a cancelled run that is to be undone, with the thread as it was before the run (ADR 32)."""
        if is_update(claimed.run):
            return concluded(outcome, claimed, beginning)
        if outcome.status is not RunStatus.CANCELLED or not await self._ports.claims.is_to_be_undone(
            claimed.run["_id"]
        ):
            return outcome
        return outcome.undo(beginning.before or Outcome.of_thread(claimed.thread or {}))

    async def _publish_again(self, run: RunDocument, backlog: Backlog) -> None:
        """Publish the events of a run that ended before, so that none of the thread's next run comes before them (ADR 2)."""
        events = RunEvents(self._ports.producer, run, self._settle, backlog)
        for entry in await entries_of(self._ports.saver, run):
            events.publish(entry)
        events.settle_later()

    async def _execute(
        self, claimed: Claimed, beginning: Beginning, events: RunEvents, chunks: RunChunks
    ) -> tuple[int, Outcome | None]:
        """Execute; the sequence number for the end, and the outcome (``None``: handed over)."""
        run = claimed.run
        if is_update(run):
            await start_over(self._ports.saver, claimed, beginning)
        if (parked := await self._ports.poison.verdict(claimed, beginning)) is not None:
            metrics.PARKED.inc()
            log.error("run.parked", run_id=run["_id"], thread_id=run["thread_id"], crashes=run.get("crashes", 0))
            return beginning.next_seq, parked
        served = self._ports.graphs.get(run["graph_id"])
        if served is None:
            known = ", ".join(sorted(self._ports.graphs))
            error = UnknownGraphError(f"no graph {run['graph_id']!r} is served here; this worker serves {known}")
            if run.get("cancel_requested_at"):
                return beginning.next_seq, cancelled_before(claimed, beginning)
            return beginning.next_seq, Outcome(
                RunStatus.ERROR, error_info(error), next=beginning.waiting_at, head=beginning.head
            )
        if run["owner"] != self._ports.claims.incarnation() or not self._leased.is_set():
            raise Lost  # between the claim and now
        execution = (Updating if is_update(run) else Execution)(
            claimed, served, beginning, events.publish,
            (self._settings.recursion_limit, self._settings.recursion_limit_max), self._ports.sdk,
            self._ports.paces[run["graph_id"]], chunks,
        )  # fmt: skip
        self._open[run["_id"]] = execution
        if self._draining:
            execution.drain()
        if self._ending:
            execution.stop(StopReason.SHUTDOWN)
        try:
            outcome = await execution.run()
        except HandedOver:
            metrics.HANDED_OVER.inc()
            log.info("run.handed_over", run_id=run["_id"], thread_id=run["thread_id"])
            await self._put_back(run, StartReason.HANDED_OVER)
            return 0, None
        finally:
            execution.scope.close()
            metrics.CHECKPOINTS.inc(execution.scope.next_seq - beginning.next_seq)
        return execution.scope.take_seq(), outcome

    async def _put_back(self, run: RunDocument, reason: StartReason) -> None:
        await self._ports.claims.release(run)
        self._publish_start(run, reason, run["_id"])

    def _publish_start(self, run: RunDocument, reason: StartReason, run_id: str) -> None:
        publish_start(self._ports.producer, run, reason, SOURCE, run_id=run_id, causation_id=f"{run['_id']}:start")

    def _settle(self, run: RunDocument) -> None:
        self._keep(asyncio.create_task(self._mark_settled(run), name=f"settle {run['_id']}"))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._idle.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ShuttingDown):
            log.error("task.failed", task=task.get_name(), exc_info=error)

    def _at_once(self, _: Sequence[str]) -> datetime:
        """By when a run of a graph that is not served here should have ended: it fails without executing anything."""
        return after(self._settings.expected_floor_s)

    async def _mark_settled(self, run: RunDocument) -> None:
        settled = Assignment(run["_id"], {"settled": True}, equal={"epoch": run["epoch"], "owner": None})
        await self._ports.runs.write(assignments=[settled])
