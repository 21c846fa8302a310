"""``python -m perdure.checkpoint.conformance``: the public conformance suite against a database.

Contract: takes the database of ``PERDURE_MONGODB_URI``, or an ephemeral one of the local stack; prints the report;
exit code 0 when all eight capabilities pass. It writes to a database of its own, which it drops.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

from perdure.chassis import mongo
from perdure.checkpoint.saver import PerdureSaver

CAPABILITIES = 8


async def run(uri: str, *, verbose: bool = False) -> Any:
    """Run the suite; the ``CapabilityReport`` of ``langgraph-checkpoint-conformance``."""
    suite = importlib.import_module("langgraph.checkpoint.conformance")
    report_module = importlib.import_module("langgraph.checkpoint.conformance.report")
    client = mongo.connect(uri)
    name = f"conformance_{uuid4().hex[:12]}"
    saver = PerdureSaver(client[name])
    await saver.ensure_indexes()

    async def factory() -> AsyncGenerator[PerdureSaver, None]:
        yield saver

    callbacks = report_module.ProgressCallbacks
    try:
        return await suite.validate(
            suite.checkpointer_test(name="PerdureSaver")(factory),
            progress=callbacks.verbose() if verbose else callbacks.default(),
        )
    finally:
        await client.drop_database(name)
        await saver.aclose()
        client.close()


def passed_everything(report: Any) -> bool:
    """Whether all eight capabilities were found and passed."""
    return sum(result.passed is True for result in report.results.values()) == CAPABILITIES


def main() -> int:
    """Command line; ``-v`` shows each test."""
    uri = os.environ.get("PERDURE_MONGODB_URI")
    verbose = "-v" in sys.argv[1:]
    if uri:
        report = asyncio.run(run(uri, verbose=verbose))
    else:
        servers = importlib.import_module("perdure.local.stack").Stack(ephemeral=True)
        try:
            servers.start(["mongodb"])
            report = asyncio.run(run(servers.environment()["PERDURE_MONGODB_URI"], verbose=verbose))
        finally:
            servers.stop()
    report.print_report()
    return 0 if passed_everything(report) else 1


if __name__ == "__main__":
    sys.exit(main())
