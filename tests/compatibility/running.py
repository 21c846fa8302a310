"""Runs the probes against one server, several at a time, and says which of them failed and why."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable, Sequence

import httpx
from tests.compatibility.probe import Claim, Probe
from tests.compatibility.stage import Stage
from tests.compatibility.surface import operations
from tests.support.web import recording_server

AT_ONCE = 12
PROBE_TIMEOUT_S = 90.0
KEEPALIVE_S = 1.0
"""Less than any server keeps an idle connection, so that none is used while its server closes it."""


async def failures_of(probes: Sequence[Probe], url: str, *, claims: bool = True) -> dict[str, str]:
    """Run them; by the name of each that failed, why. ``claims``: a probe that did not use what it claims has failed."""
    places = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncHTTPTransport(
        limits=httpx.Limits(max_connections=200, keepalive_expiry=KEEPALIVE_S)
    ) as shared:
        with recording_server() as hooks:

            async def one(probe: Probe) -> str | None:
                async with places:
                    return await failure_of(probe, Stage(url, shared, hooks), claims=claims)

            together = [probe for probe in probes if not probe.alone]
            found = dict(zip(together, await asyncio.gather(*map(one, together)), strict=True))
            for probe in probes:
                if probe.alone:
                    found[probe] = await one(probe)
    return {probe.name: failure for probe, failure in found.items() if failure is not None}


async def failure_of(probe: Probe, stage: Stage, *, claims: bool = True) -> str | None:
    """Run one probe: why it failed, ``None`` when it passed and, with ``claims``, used all that it claims."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await probe.run(stage)
    except Exception as error:
        return "".join(traceback.format_exception(error))
    finally:
        await stage.close()
    if not claims:
        return None
    unused = [f"{one.operation} {name}" for one in probe.claims for name in unused_of(one, stage.wire.noted())]
    return f"it claims what it did not use: {', '.join(unused)}" if unused else None


def unused_of(claim: Claim, noted: dict[str, set[str]]) -> list[str]:
    """The parameters of a claim that were not on the wire; the operation's name when it was not asked at all."""
    if claim.operation not in noted:
        return [claim.operation]
    there = noted[claim.operation]
    return sorted(name for name in claim.parameters if _noted_as(name) not in there)


def _noted_as(parameter: str) -> str:
    return parameter.lower() if parameter.startswith(("header.", "answer_header.")) else parameter


def unknown_claims(probes: Iterable[Probe]) -> list[str]:
    """Claims about operations or parameters that the surface does not have."""
    known = {one.name: set(one.parameters) for one in operations()}
    return [
        f"{probe.name}: {claim.operation} {name}"
        for probe in probes
        for claim in probe.claims
        for name in (claim.parameters - known[claim.operation] if claim.operation in known else [""])
    ]
