"""The order of a benchmark's sessions, and the report of what they wrote."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PEERS = ["langgraph_postgres", "restate", "dbos"]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``plan`` and ``report``, as ``run.py`` imports them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("plan", "report", "metrics", "plots", "budgets")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import plan
    import report

    yield plan, report
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("between", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_peer_is_next_to_a_session_of_ours_with_the_same_workloads(
    modules: Any, between: int, count: int
) -> None:
    plan, _ = modules
    order = plan.sessions(PEERS[:count], 3, between, plan.FULL)
    assert [session.number for session in order] == list(range(len(order)))
    for session in order:
        if session.system == plan.OURS:
            continue
        ours = order[session.ours]
        assert ours.system == plan.OURS
        assert abs(ours.number - session.number) == 1
        assert set(session.workloads) <= set(ours.workloads)


def test_without_peers_ours_runs_alone(modules: Any) -> None:
    plan, _ = modules
    order = plan.sessions([], 2, 2, {"soak": plan.soak(1)})
    assert [(session.system, session.workloads) for session in order] == [("perdure", ["soak"])]


def test_what_only_ours_does_is_run_once_a_round(modules: Any) -> None:
    plan, _ = modules
    order = plan.sessions(PEERS, 2, 2, {name: plan.FULL[name] for name in ("chain-1k", "sleepers")})
    assert [session.system for session in order if "sleepers" in session.workloads] == ["perdure"]
    alone = plan.sessions(PEERS, 2, 2, {"sleepers": plan.FULL["sleepers"]})
    assert [(session.system, session.workloads) for session in alone] == [("perdure", ["sleepers"])]


def test_the_report_tells_ratios_reasons_and_who_is_ahead(modules: Any, tmp_path: Path) -> None:
    plan, report = modules
    size = {"id": "chain-1k", **plan.FULL["chain-1k"]}
    rows: list[dict[str, Any]] = [
        {"run": {"machine": "a machine", "at": "now"}},
        {"system": "aegra", "not_run": "no Python 3.12"},
    ]
    for number, (ours, theirs) in enumerate([(500.0, 1000.0), (400.0, 1000.0), (600.0, 1000.0)]):
        numbers = {"agents": 500, "cpu_s_per_1000": 1.0}
        where = {"id": "chain-1k", "size": size}
        rows.append(
            {
                "system": "perdure",
                "session": 2 * number,
                "ours": None,
                **where,
                "numbers": numbers | {"steps_per_s": ours},
            }
        )
        other = numbers | {"steps_per_s": theirs, "cpu_s_per_1000": 2.0}
        rows.append({"system": "restate", "session": 2 * number + 1, "ours": 2 * number, **where, "numbers": other})
    rows.append({"system": "dbos", "session": 7, "ours": 4, "id": "chain-1k", "size": size, "failed": "OSError: gone"})
    file = tmp_path / "bench.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report.write([file], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "**0.50** (0.40 to 0.60)" in text
    behind, ahead = text.split("## Where a peer is ahead")[1].split("## Where Perdure is ahead")
    assert "steps/s: Restate" in behind
    assert "CPU s / 1,000: Restate, ours / it **0.50**" in ahead
    assert "| 1.2 times Restate in steps/s at 1 KiB | 0.5 | **missed** |" in text
    assert "DBOS: – (failed: OSError: gone)" in text
    assert "Aegra: not run: no Python 3.12" in text
    assert (tmp_path / "chain-1k.svg").read_text().startswith("<svg")


def test_a_pair_is_never_of_two_runs(modules: Any, tmp_path: Path) -> None:
    plan, report = modules
    where = {"id": "chain-1k", "size": {"id": "chain-1k", **plan.FULL["chain-1k"]}}
    files = []
    for name, ours in (("first", 500.0), ("second", 3000.0)):
        rows: list[dict[str, Any]] = [
            {"run": {"machine": "a machine", "at": name, "versions": {"commit": f"{name}1"}}},
            {"system": "perdure", "session": 0, "ours": None, **where, "numbers": {"agents": 1, "steps_per_s": ours}},
            {"system": "dbos", "session": 1, "ours": 0, **where, "numbers": {"agents": 1, "steps_per_s": 1000.0}},
        ]
        files.append(tmp_path / name)
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    report.write(files, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "**1.75** (0.50 to 3.00)" in text
    assert text.index("first, commit `first1`: a machine") < text.index("second, commit `second1`: a machine")
