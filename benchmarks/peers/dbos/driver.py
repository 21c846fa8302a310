"""DBOS Transact for Python: asynchronous workflows and steps in the driver's process, on PostgreSQL, its defaults."""

from __future__ import annotations

import asyncio
import os
import time
from importlib.metadata import version
from typing import Any, ClassVar

from dbos import DBOS, DBOSConfig, SetWorkflowID
from harness.postgres import Postgres
from harness.session import main
from harness.system import System
from payload import MESSAGE_BYTES, STEPS, first_message, message

_counts = {"parked": 0}


@DBOS.step()
async def step(number: int, size: int = 200) -> dict[str, Any]:
    """A step whose result, one message, is persisted."""
    await asyncio.sleep(0)
    return message(number, size)


@DBOS.step()
async def works() -> dict[str, Any]:
    """What an agent does before it waits."""
    _counts["parked"] += 1
    return message(0)


@DBOS.step()
async def full_step(messages: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """A step whose result is the whole state."""
    await asyncio.sleep(0)
    return [*messages, message(number)]


@DBOS.workflow()
async def chain(messages: list[dict[str, Any]], steps: int, full: bool) -> int:
    """Steps in a row."""
    for number in range(steps):
        messages = await full_step(messages, number) if full else [*messages, await step(number)]
    return len(messages)


@DBOS.workflow()
async def approve(messages: list[dict[str, Any]]) -> Any:
    """A step, a wait for a signal, a step."""
    messages = [*messages, await works()]
    answer = await DBOS.recv_async("approve", timeout_seconds=3600)
    messages = [*messages, await step(1)]
    return [len(messages), answer]


@DBOS.workflow()
async def sleeper(due: float) -> float:
    """A durable sleep until then."""
    await DBOS.sleep_async(max(0.0, due - time.time()))
    return time.time() - due


@DBOS.workflow()
async def fan_out(width: int) -> int:
    """Steps at once."""
    return len(await asyncio.gather(*(step(number) for number in range(width))))


class Dbos(System):
    """Workflows are started directly, not through a queue."""

    title = "DBOS"
    reasons: ClassVar[dict[str, str]] = {
        "chat": f"a conversation that outlives a workflow is a table of the application ({MESSAGE_BYTES} B rows), not of DBOS"
    }
    persists = "the input once, then each step's result (one message)"
    stored_is = "pg_database_size; journal: write-ahead log"

    async def open(self) -> None:
        self._postgres = Postgres(self.scratch / "postgres")
        await self._postgres.open()
        config: DBOSConfig = {
            "name": "bench",
            "system_database_url": self._postgres.create("bench").replace("postgresql://", "postgresql+psycopg://"),
            "log_level": "ERROR",
            "executor_id": f"bench-{os.getpid()}",
            "application_version": "1",
            "run_admin_server": False,
        }
        DBOS(config=config)
        DBOS.launch()
        self._handles: dict[str, Any] = {}

    async def close(self) -> None:
        DBOS.destroy()
        self._postgres.close()

    async def _start(self, key: str, workflow: Any, *given: Any) -> Any:
        with SetWorkflowID(key):
            return await DBOS.start_workflow_async(workflow, *given)

    async def chain(self, key: str, state_bytes: int) -> None:
        handle = await self._start(key, chain, [first_message(state_bytes)], STEPS, self.full_state)
        assert await handle.get_result() == 1 + STEPS

    async def short(self, key: str) -> None:
        handle = await self._start(key, chain, [first_message(1024)], 1, False)
        assert await handle.get_result() == 2

    async def park(self, key: str) -> None:
        self._handles[key] = await self._start(key, approve, [first_message(1024)])

    async def parked(self) -> int:
        return _counts["parked"]

    async def resume(self, key: str) -> None:
        await DBOS.send_async(key, "yes", "approve")
        assert await self._handles.pop(key).get_result() == [3, "yes"]

    async def timer(self, key: str, due: float) -> float:
        async with self.rooms:
            handle = await self._start(key, sleeper, due)
        return float(await handle.get_result())

    async def fan_out(self, key: str, width: int) -> None:
        handle = await self._start(key, fan_out, width)
        assert await handle.get_result() == width

    def processes(self) -> list[int]:
        return self._postgres.pids

    async def stored(self) -> dict[str, int]:
        return self._postgres.stored("bench")

    def about(self) -> dict[str, Any]:
        return {"dbos": version("dbos")} | self._postgres.about()


if __name__ == "__main__":
    main(Dbos)
