"""Holds the promises against the evidence and writes the report: a table for people, JSON for machines."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.evidence import Evidence
from tests.chaos.findings import Findings
from tests.chaos.promises import promises

EXAMPLES = 20
SHOWN = 3


@dataclass(slots=True)
class Verdict:
    """What the checker found."""

    findings: dict[str, Findings]
    facts: dict[str, Any] = field(default_factory=dict)
    """Seed, minutes, faults, counts, versions, settings."""

    @property
    def holds(self) -> bool:
        """Whether no promise is broken."""
        return not any(found.broken for found in self.findings.values())

    def broken(self) -> set[str]:
        """The names of the broken promises."""
        return {name for name, found in self.findings.items() if found.broken}

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        shown = {
            name: {"checked": found.checked, "violations": len(found.broken), "examples": found.broken[:EXAMPLES]}
            for name, found in self.findings.items()
        }
        return {"holds": self.holds, **self.facts, "promises": shown}

    def table(self) -> str:
        """For people."""
        width = max(map(len, self.findings))
        lines = [f"{'promise':<{width}}  {'checked':>8}  {'broken':>7}"]
        for name, found in self.findings.items():
            lines.append(f"{name:<{width}}  {found.checked:>8}  {len(found.broken) or '-':>7}")
            lines += [f"{'':<{width}}    {one['thread']}: {one['what']}" for one in found.broken[:SHOWN]]
        lines.append("every promise held" if self.holds else f"BROKEN: {', '.join(sorted(self.broken()))}")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write the JSON report."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_json(), indent=1, default=str) + "\n")


def check(evidence: Evidence, seed: int) -> Verdict:
    """Hold every promise against the evidence."""
    findings: dict[str, Findings] = {}
    for name, promise in promises(seed).items():
        findings[name] = Findings()
        promise(evidence, findings[name])
        if not findings[name].checked:
            findings[name].unchecked()
    return Verdict(findings, {"counts": counts(evidence)})


def counts(evidence: Evidence) -> dict[str, float]:
    """How much there was to check."""
    entries = [one for found in evidence.history.values() for one in found]
    return {
        "agents": len({one["agent"] for one in evidence.acknowledged("start")}),
        "acknowledged starts": len(evidence.acknowledged("start")),
        "acknowledged signals": len(evidence.acknowledged("signal")),
        "answers": len(evidence.acknowledged("answer")),
        "threads": len(evidence.threads),
        "runs": len(evidence.runs),
        "runs claimed more than once": sum(run.get("epoch", 0) > 1 for run in evidence.runs.values()),
        "history entries": sum(one["kind"] != "f" for one in entries),
        "fences": sum(one["kind"] == "f" for one in entries),
        "waits": len(evidence.waits),
        "signals": len(evidence.signals),
        "Kafka events": sum(map(len, evidence.events.values())),
        "repeated Kafka events": sum(len(ids) - len(set(ids)) for ids in evidence.events.values()),
        "indexed states": len(evidence.states),
        "effects applied": sum(one["applied"] for one in evidence.world),
        "effects attempted again": sum(not one["applied"] for one in evidence.world),
        "workers": len(evidence.workers),
        "looks while it ran": evidence.samples.looks,
        "owned runs looked at": evidence.samples.runs,
        "streams read": len(evidence.streams),
        "events read": sum(len(one.events) for one in evidence.streams.values()),
        "connections of readers": sum(one.connections for one in evidence.streams.values()),
        "longest standstill in s": evidence.samples.longest_s,
    }
