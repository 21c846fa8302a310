"""What the checks of one promise found: how much was checked, and every violation. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Findings:
    """What one promise's function found."""

    checked: int = 0
    broken: list[dict[str, str]] = field(default_factory=list)

    def hold(self, holds: bool, thread: str, what: str, *details: object) -> bool:
        """Note one check."""
        self.checked += 1
        if not holds:
            self.broken.append({"thread": thread, "what": what.format(*details)[:500]})
        return holds

    def unchecked(self) -> None:
        """Note that there was nothing to check: a promise that nothing was held against is not kept."""
        self.broken.append({"thread": "-", "what": "nothing was checked"})
