"""All probes, in the order of the page's sections."""

from __future__ import annotations

from typing import Final

from tests.compatibility.probe import Probe
from tests.compatibility.probes import (
    crons,
    runs,
    runs_start,
    state_updates,
    states,
    streams,
    system,
    thread_search,
    thread_streams,
    threads,
)

PROBES: Final[tuple[Probe, ...]] = (
    *threads.PROBES,
    *thread_search.PROBES,
    *states.PROBES,
    *state_updates.PROBES,
    *runs_start.PROBES,
    *runs.PROBES,
    *streams.PROBES,
    *thread_streams.PROBES,
    *crons.PROBES,
    *system.PROBES,
)
