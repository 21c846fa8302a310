"""Strangers' input, made up: seconds here, longer with ``make fuzz MINUTES=10``. What failed once is kept in ``corpus``."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
EXAMPLES = 150


def check(name: str, target: Target, data: bytes) -> None:
    """Run one input; an input that fails is kept."""
    began = time.process_time()
    try:
        target.run(data)
    except target.expected:
        pass
    except Exception:
        if MINUTES:
            folder = CORPUS / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        raise
    took = time.process_time() - began
    assert took < target.most_s, f"{len(data)} bytes took {took:.1f} s"


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_failed_once(path: Path) -> None:
    check(path.parent.name, TARGETS[path.parent.name], path.read_bytes())


@pytest.mark.timeout(MINUTES * 60 + 600)
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_made_up(name: str) -> None:
    target = TARGETS[name]
    end = time.monotonic() + MINUTES * 60
    rounds = 0
    while rounds == 0 or time.monotonic() < end:
        rounds += 1

        @seed(rounds)
        @settings(
            max_examples=EXAMPLES * 10 if MINUTES else EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(target.strategy)
        def run(data: bytes) -> None:
            check(name, target, data)

        run()
