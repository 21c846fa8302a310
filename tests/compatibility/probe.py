"""What a probe is: a function that uses the API over the wire, and what it shows of which operation.

A probe asserts that a parameter has its effect. The parameters that it claims are compared with what it sent and what was answered
(``tests.compatibility.wire``): a probe that claims a parameter which it never used fails, however its function ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.compatibility.surface import PLACES

ACCEPTED = "accepted, no effect"


@dataclass(frozen=True)
class Claim:
    """What a probe shows of one operation.

    Attributes:
        works: Parameters (``body.metadata``) that have their effect.
        partly: By parameter, why not everything of it works. The probe shows that it is so.
        refused: By parameter, why it does not work. The probe shows that the request is answered with an error.

    """

    operation: str
    works: frozenset[str]
    partly: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> frozenset[str]:
        return self.works | {*self.partly, *self.refused}


def claim(
    operation: str,
    *,
    partly: Mapping[str, str] | None = None,
    refused: Mapping[str, str] | None = None,
    **works: str,
) -> Claim:
    """A claim; by place (``body``, ``query``, ...) the names of the parameters, separated by spaces."""
    assert works.keys() <= set(PLACES), works
    parameters = frozenset(f"{place}.{name}" for place, names in works.items() for name in names.split())
    return Claim(operation, parameters, partly or {}, refused or {})


@dataclass(frozen=True, eq=False)
class Probe:
    """One probe.

    Attributes:
        run: Gets the stage (``tests.compatibility.stage``) and raises AssertionError when something is not as it says.
        differs: Why the Agent Server does not answer as ``run`` asserts: a difference on purpose. Empty where it does.
        reference: False where the reference cannot be asked: it needs what is not there offline.
        alone: It changes what other probes use, so it runs when they have ended.

    """

    name: str
    run: Callable[[Any], Awaitable[None]]
    claims: tuple[Claim, ...] = ()
    differs: str = ""
    reference: bool = True
    alone: bool = False


def probe(
    run: Callable[..., Awaitable[None]],
    *claims: Claim,
    differs: str = "",
    reference: bool = True,
    alone: bool = False,
    name: str = "",
) -> Probe:
    """A probe that has the name of its function, and what tells it from others of the same function."""
    module = run.__module__.rpartition(".")[2]
    told = f"{module}.{run.__name__}" + (f"[{name}]" if name else "")
    return Probe(told, run, claims, differs, reference, alone)
