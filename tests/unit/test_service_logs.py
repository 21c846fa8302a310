"""The services' logs of a failed end-to-end test are kept, with errors first."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.service_logs import FOLDER, Watched, keep

from perdure.local.services import Services


def test_the_logs_since_the_start_are_kept_and_errors_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Services({}, tmp_path, ("gateway", "agent_step", "agent_step"))
    log = services["agent_step-2"].log
    log.parent.mkdir(parents=True)
    log.write_text("of the test before\n")
    watched = Watched.of(services)
    lines = ['{"level": "error", "event": "run.lost"}', *(f'{{"level": "info", "n": {n}}}' for n in range(50))]
    with log.open("a") as file:
        file.write("\n".join(lines) + "\n")
    monkeypatch.setenv(FOLDER, str(tmp_path / "kept"))
    said = keep([watched], "tests/e2e/test_x.py::test_y[1]")
    (kept,) = (tmp_path / "kept").rglob("*.log")
    assert kept.name == "agent_step-2.log"
    assert kept.read_text().splitlines() == lines
    assert str(kept.parent.parent) in said
    assert said.index("run.lost") < said.index('"n": 49')
    assert "of the test before" not in said
