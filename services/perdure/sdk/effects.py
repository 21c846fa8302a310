"""Effects: an act in the world that happens once, however often its node runs (ADR 9).

::

    async def buy(state):
        order = {"symbol": "ACME", "quantity": 100, "limit": 12.0}
        try:
            receipt = await effect(
                "buy", lambda key: broker.buy(order, client_order_id=key),
                action=order, verdict=state["verdict_id"], reconcile=broker.find,
            )
        except GuardExpired:
            return Command(goto="validate")
        return {"receipt": receipt}

The intent is recorded before, the receipt after. Called again with the same key in the same thread, the receipt is returned and
nothing runs. An intent without a receipt is *unknown*: the process died, or the function raised. Then ``reconcile`` is asked; what
it does not know follows ``on_unknown``: ``retry`` (the same idempotency key again) or ``ask`` (a person; the agent sleeps).

Contract: a guarded effect (``verdict=`` or ``approval=`` is named, even with ``None``) runs only under an unexpired verdict
"proceed" or an approval for this very action, which no other effect has used. What cannot be promised: a process that freezes
between its last look at the clock and the act itself may act after somebody else did; that is detected (``effect.twice``).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Literal, TypeAlias, TypeVar, overload

from perdure.schemas.waits import digest
from perdure.sdk.context import current
from perdure.sdk.effect_errors import EffectMisused, EffectNotDone
from perdure.sdk.effect_flow import Done, Flow, NotDone, Order, Reconcile, Reconciled, Unknown
from perdure.sdk.effect_rules import effect_id
from perdure.sdk.guards import Guard, HasVerdictId, guard_of
from perdure.sdk.waits import Answered

T = TypeVar("T")

OnUnknown: TypeAlias = Literal["retry", "ask"]
VerdictGiven: TypeAlias = str | HasVerdictId | None
ApprovalGiven: TypeAlias = str | Answered | None

LONGEST = timedelta(days=1)


class _NotNamed:
    """The default of a guard: not the same as ``None``, which is a guard that is missing."""

    def __repr__(self) -> str:
        return "not guarded"


_NOT_NAMED = _NotNamed()


@overload
async def effect(
    key: str,
    fn: Callable[[str], Awaitable[T]],
    *,
    action: Any = ...,
    verdict: VerdictGiven | _NotNamed = ...,
    approval: ApprovalGiven | _NotNamed = ...,
    reconcile: Reconcile | None = ...,
    on_unknown: OnUnknown | None = ...,
    timeout: timedelta = ...,  # noqa: ASYNC109 (of one attempt, not of the call)
    not_done: tuple[type[Exception], ...] = ...,
) -> T: ...


@overload
async def effect(
    key: str,
    fn: Callable[[str], T],
    *,
    action: Any = ...,
    verdict: VerdictGiven | _NotNamed = ...,
    approval: ApprovalGiven | _NotNamed = ...,
    reconcile: Reconcile | None = ...,
    on_unknown: OnUnknown | None = ...,
    timeout: timedelta = ...,  # noqa: ASYNC109 (of one attempt, not of the call)
    not_done: tuple[type[Exception], ...] = ...,
) -> T: ...


async def effect(
    key: str,
    fn: Callable[[str], Any],
    *,
    action: Any = None,
    verdict: VerdictGiven | _NotNamed = _NOT_NAMED,
    approval: ApprovalGiven | _NotNamed = _NOT_NAMED,
    reconcile: Reconcile | None = None,
    on_unknown: OnUnknown | None = None,
    timeout: timedelta = timedelta(minutes=5),  # noqa: ASYNC109
    not_done: tuple[type[Exception], ...] = (),
) -> Any:
    """Act once; for ``async`` nodes.

    Args:
        key: Names the act within its thread: 1 to 160 visible ASCII characters, the same each time the node runs.
        fn: Acts. Gets the idempotency key ``<thread id>:<key>``, to pass on to whoever is asked to act. May be async; one that is
            not runs in a thread, where nothing can stop it: it must end by itself within ``timeout``.
        action: The exact act as JSON. Required for a guarded effect; else it only keeps the key from standing for two acts.
        verdict: Of ``final_validation``: what it returned, or the verdict's id.
        approval: The :class:`Answered` of ``ask_human(action=...)``, or its approval id. Both named: both are needed.
        reconcile: Looks up what became of an attempt, by the idempotency key; returns :class:`Done`, :class:`NotDone` or
            :class:`Unknown`. What it raises counts as unknown.
        on_unknown: What to do when nobody knows; ``ask`` by default where a guard or ``reconcile`` is given, else ``retry``.
        timeout: How long one attempt may take, at most a day. After a crash on another machine nobody follows before it has passed.
        not_done: Exceptions of ``fn`` that say that it certainly did not happen, beside :class:`EffectNotDone`.

    Returns:
        What ``fn`` returned, as it is read back from the store: JSON, or what LangGraph stores without pickling, up to 1 MiB.

    Raises:
        OutsidePerdure: no node is executing, or not under agent-step.
        EffectError: see ``perdure.sdk.effect_errors``.
        Exception: what ``fn`` raised; unless ``not_done`` says otherwise, the effect is unknown then.

    """
    order = _order(key, fn, action, verdict, approval, reconcile, on_unknown, timeout, not_done)
    scope, sdk = current("effect")
    return await Flow(order, scope, sdk, asyncio.to_thread).run()


def effect_blocking(
    key: str,
    fn: Callable[[str], T],
    *,
    action: Any = None,
    verdict: VerdictGiven | _NotNamed = _NOT_NAMED,
    approval: ApprovalGiven | _NotNamed = _NOT_NAMED,
    reconcile: Reconcile | None = None,
    on_unknown: OnUnknown | None = None,
    timeout: timedelta = timedelta(minutes=5),
    not_done: tuple[type[Exception], ...] = (),
) -> T:
    """Act once; for nodes that are not ``async``. ``fn`` and ``reconcile`` run in the node's own thread; see :func:`effect`."""
    order = _order(key, fn, action, verdict, approval, reconcile, on_unknown, timeout, not_done)
    scope, sdk = current("effect_blocking")
    if _runs_in(sdk.loop):
        raise EffectMisused(
            f"effect_blocking({key!r}) would stop every run of this worker: use `await effect(...)` here"
        )
    jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    async def in_node_thread(function: Callable[[str], Any], argument: str) -> Any:
        job: concurrent.futures.Future[Any] = concurrent.futures.Future()
        jobs.put(lambda: _run(job, function, argument))
        return await asyncio.wrap_future(job)

    # The coroutine sees this thread's context: its node, and the answers to its questions.
    flow = asyncio.run_coroutine_threadsafe(Flow(order, scope, sdk, in_node_thread).run(), sdk.loop)
    flow.add_done_callback(lambda _: jobs.put(None))
    while (job := jobs.get()) is not None:
        job()
    receipt: T = flow.result()
    return receipt


def _order(
    key: str,
    fn: Callable[[str], Any],
    action: Any,
    verdict: object,
    approval: object,
    reconcile: Reconcile | None,
    on_unknown: OnUnknown | None,
    timeout: timedelta,
    not_done: tuple[type[Exception], ...],
) -> Order:
    """What is asked for, checked."""
    effect_id("", key)
    guards: list[Guard] = []
    if not isinstance(verdict, _NotNamed):
        guards.append(guard_of("verdict", verdict))
    if not isinstance(approval, _NotNamed):
        guards.append(guard_of("approval", approval))
    if guards and action is None:
        raise EffectMisused(f"effect {key!r} is guarded and needs action=: a verdict or approval is for one exact act")
    if not timedelta(0) < timeout <= LONGEST:
        raise EffectMisused(f"effect {key!r}: timeout must be more than nothing and at most a day, not {timeout}")
    if on_unknown not in {None, "retry", "ask"}:
        raise EffectMisused(f"effect {key!r}: on_unknown is 'retry' or 'ask', not {on_unknown!r}")
    try:
        action_digest = digest(action) if action is not None else None
    except (TypeError, ValueError) as error:
        raise EffectMisused(f"effect {key!r}: the action must be JSON: {error}") from error
    return Order(
        key=key,
        fn=fn,
        action=action,
        digest=action_digest,
        guards=tuple(guards),
        reconcile=reconcile,
        asks=on_unknown == "ask" or (on_unknown is None and bool(guards or reconcile)),
        timeout=timeout,
        not_done=(EffectNotDone, *not_done),
    )


def _runs_in(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _run(job: concurrent.futures.Future[Any], function: Callable[[str], Any], argument: str) -> None:
    try:
        result = function(argument)
    except BaseException as error:  # handed to the flow, which raises it into the node
        job.set_exception(error)
    else:
        job.set_result(result)


__all__ = ["Done", "NotDone", "Reconciled", "Unknown", "effect", "effect_blocking"]
