"""What agent-step does with each command. A command is a hint: the run's document decides (``perdure.schemas.commands``)."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.agent_step.worker import Worker
from perdure.chassis.kafka.consumer import Refused
from perdure.schemas.commands import CancelRun, StartRun, StreamRun
from perdure.schemas.envelope import Decoded


async def handle(worker: Worker, batch: Sequence[Decoded]) -> None:
    """Handle a batch; returns when every claim of it is durable.

    A run is cancelled only when its document says so: whoever can write to Kafka alone stops nothing. A run that is to be cancelled
    and runs nowhere is claimed like any other and ends as cancelled before its first superstep.

    Raises:
        Refused: a command names a run that is executed here with the tenant or thread of another one; nothing was done.

    """
    if foreign := [one for one in batch if worker.is_foreign(one.message)]:
        raise Refused("the run is executed here, and is not of the tenant and thread that the command names", *foreign)
    await worker.stream([d.message for d in batch if isinstance(d.message, StreamRun)])
    threads = {d.message.thread_id for d in batch if isinstance(d.message, StartRun)}
    cancelled = {d.message.run_id: d.message.thread_id for d in batch if isinstance(d.message, CancelRun)}
    wanted = await worker.cancel_requested(list(cancelled))
    threads.update(cancelled[run_id] for run_id in worker.cancel(wanted))
    if threads:
        await worker.start(threads)
