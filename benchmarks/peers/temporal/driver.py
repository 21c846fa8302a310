"""Temporal: its production server (all four services in one process) on PostgreSQL; worker and client are the driver's process.

Regular activities: the server persists each result before the next step, as the workload asks. Local activities are recorded with
the workflow task and would be about three times cheaper, but are not durable one by one. The SDK's defaults otherwise.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from importlib.metadata import version
from typing import Any, ClassVar

import activities
import workflows
from google.protobuf.duration_pb2 import Duration
from harness.postgres import Postgres
from harness.processes import HOST, Child, free_low_port
from harness.session import main
from harness.system import System
from payload import STEPS, first_message
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

QUEUE = "bench"
SHARDS = 4
_STORES = {"main": ("temporal", "temporal", 20), "visibility": ("temporal_visibility", "visibility", 4)}
"""Name of the store: its database, its schema, its connections."""


class Temporal(System):
    """Server, database and worker."""

    title = "Temporal"
    reasons: ClassVar[dict[str, str]] = {
        "chat": "a workflow's history is replayed, not loaded, and ends at 50 MB or 51,200 events"
    }
    persists = "the input once, then each step's result (one message), with the events of its tasks"
    stored_is = "pg_database_size; journal: write-ahead log"

    async def open(self) -> None:
        self._postgres = Postgres(self.scratch / "postgres")
        await self._postgres.open()
        for database, schema, _ in _STORES.values():
            self._schema(self._postgres.create(database).rsplit("/", 1)[1], schema)
        self._port = free_low_port()  # the server keeps its ports in 16-bit columns
        (self.scratch / "server.yaml").write_text(json.dumps(self._settings()))  # JSON is YAML
        command = [
            str(self.home / "bin/server"),
            "--config-file",
            str(self.scratch / "server.yaml"),
            "--allow-no-auth",
            "start",
        ]
        self._server = Child(command, self.scratch / "server.log")
        await self._server.until(self._answers)
        self._worker = Worker(
            self._client,
            task_queue=QUEUE,
            workflows=[workflows.Chain, workflows.FanOut, workflows.Approve, workflows.Sleeper],
            activities=[activities.step, activities.full_step, activities.works, activities.notes_lateness],
        )
        self._working = asyncio.create_task(self._worker.run())
        self._handles: dict[str, Any] = {}

    def _schema(self, database: str, schema: str) -> None:
        tool = [
            str(self.home / "bin/sql"),
            "--ep",
            HOST,
            "-p",
            str(self._postgres.port),
            "-u",
            "postgres",
            "--pw",
            "none",
        ]
        tool += ["--pl", "postgres12", "--db", database]
        for step in (["setup-schema", "-v", "0.0"], ["update-schema", "--schema-name", f"postgresql/v12/{schema}"]):
            subprocess.run([*tool, *step], check=True, capture_output=True)

    def _settings(self) -> dict[str, Any]:
        def store(database: str, connections: int) -> dict[str, Any]:
            return {
                "sql": {
                    "pluginName": "postgres12",
                    "databaseName": database,
                    "connectAddr": f"{HOST}:{self._postgres.port}",
                    "connectProtocol": "tcp",
                    "user": "postgres",
                    "password": "none",
                    "maxConns": connections,
                    "maxIdleConns": connections,
                    "maxConnLifetime": "1h",
                }
            }

        def service(port: int) -> dict[str, Any]:
            return {"rpc": {"grpcPort": port, "membershipPort": free_low_port(), "bindOnLocalHost": True}}

        off = {"state": "disabled"}
        return {
            "log": {"stdout": True, "level": "error"},
            "persistence": {
                "defaultStore": "main",
                "visibilityStore": "visibility",
                "numHistoryShards": SHARDS,
                "datastores": {
                    name: store(database, connections) for name, (database, _, connections) in _STORES.items()
                },
            },
            "global": {"membership": {"maxJoinDuration": "30s", "broadcastAddress": HOST}},
            "services": {
                "frontend": service(self._port),
                **{name: service(free_low_port()) for name in ("matching", "history", "worker")},
            },
            "clusterMetadata": {
                "enableGlobalNamespace": False,
                "failoverVersionIncrement": 10,
                "masterClusterName": "active",
                "currentClusterName": "active",
                "clusterInformation": {
                    "active": {
                        "enabled": True,
                        "initialFailoverVersion": 1,
                        "rpcName": "frontend",
                        "rpcAddress": f"{HOST}:{self._port}",
                    }
                },
            },
            "dcRedirectionPolicy": {"policy": "noop"},
            "archival": {"history": off, "visibility": off},
            "namespaceDefaults": {"archival": {"history": off, "visibility": off}},
        }

    async def _answers(self) -> bool:
        try:
            self._client = await Client.connect(f"{HOST}:{self._port}")
            request = RegisterNamespaceRequest(
                namespace="default", workflow_execution_retention_period=Duration(seconds=86_400)
            )
            try:
                await self._client.workflow_service.register_namespace(request)
            except RPCError as error:
                if "already" not in str(error):
                    raise
            await self._client.count_workflows()
        except (RPCError, RuntimeError):
            return False
        return True

    async def close(self) -> None:
        try:
            if hasattr(self, "_worker"):
                await asyncio.wait_for(self._worker.shutdown(), 20)
        except TimeoutError:
            self._working.cancel()
        finally:
            if hasattr(self, "_server"):
                self._server.stop()
            self._postgres.close()

    async def _start(self, key: str, workflow: Any, *given: Any) -> Any:
        return await self._client.start_workflow(workflow, args=list(given), id=key, task_queue=QUEUE)

    async def chain(self, key: str, state_bytes: int) -> None:
        handle = await self._start(key, workflows.Chain.run, [first_message(state_bytes)], STEPS, self.full_state)
        assert await handle.result() == 1 + STEPS

    async def short(self, key: str) -> None:
        assert await (await self._start(key, workflows.Chain.run, [first_message(1024)], 1, False)).result() == 2

    async def park(self, key: str) -> None:
        self._handles[key] = await self._start(key, workflows.Approve.run, [first_message(1024)])

    async def parked(self) -> int:
        return activities.counts["parked"]

    async def resume(self, key: str) -> None:
        handle = self._handles.pop(key)
        result = asyncio.create_task(handle.result())
        await handle.signal(workflows.Approve.approve, "yes")
        assert await result == [3, "yes"]

    async def timer(self, key: str, due: float) -> float:
        waiting = activities.late_s[key] = asyncio.get_running_loop().create_future()
        async with self.rooms:
            await self._start(key, workflows.Sleeper.run, due)
        return await waiting

    async def fan_out(self, key: str, width: int) -> None:
        assert await (await self._start(key, workflows.FanOut.run, width)).result() == width

    def processes(self) -> list[int]:
        return [self._server.pid, *self._postgres.pids]

    async def stored(self) -> dict[str, int]:
        return self._postgres.stored("temporal")

    def about(self) -> dict[str, Any]:
        server = subprocess.run([self.home / "bin/server", "--version"], capture_output=True, text=True, check=True)
        return {
            "server": server.stdout.strip(),
            "temporalio": version("temporalio"),
            "history shards": SHARDS,
            "activities": "regular",
            **self._postgres.about(),
        }


if __name__ == "__main__":
    main(Temporal)
