"""What can go wrong in a command, and how it is shown.

::

    PerdureError
    └── CommandError                the command cannot do what was asked; the message says why and what to do
        ├── GatewayUnreachableError no gateway answers at the URL
        └── ProblemError            the gateway answered with a problem document
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from perdure.chassis.errors import PerdureError


class CommandError(PerdureError):
    """The command cannot do what was asked."""

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` writes to stderr."""
        return {"title": type(self).__name__.removesuffix("Error"), "detail": str(self)}


class GatewayUnreachableError(CommandError):
    """No gateway answers."""

    retryable = True

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"gateway at {url} does not answer ({reason}); start it with `perdure up`, "
            "or name another one with --url or PERDURE_URL"
        )
        self.url = url


class ProblemError(CommandError):
    """The gateway refused a request and said why (RFC 9457)."""

    def __init__(
        self, request: str, status: int, problem: Mapping[str, Any], params: Mapping[str, Any] | None = None
    ) -> None:
        self.request = request
        self.status = status
        self.problem = dict(problem)
        self._params = dict(params or {})
        super().__init__("\n".join(self._lines()))

    def as_json(self) -> dict[str, Any]:
        """The problem document as the gateway sent it."""
        return self.problem

    def _lines(self) -> list[str]:
        lines = [f"{self.problem.get('title') or 'the gateway refused'} (HTTP {self.status}, {self.request})"]
        errors = self.problem.get("errors") or []
        detail = self.problem.get("detail")
        if detail and not _repeats(detail, errors):
            lines.append(f"  {detail}")
        for field in errors:
            lines.append(f"  {_said(field)}")
            text = self._params.get(str(field.get("pointer")).removeprefix("query:"))
            if isinstance(text, str) and isinstance(position := field.get("position"), int):
                lines += [f"    {' '.join(text.splitlines())}", f"    {' ' * position}^"]
        return lines


def _said(field: Mapping[str, Any]) -> str:
    return f"{field.get('pointer') or 'body'}: {field.get('detail')}"


def _repeats(detail: str, errors: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a problem's detail is nothing but its first errors, one after the other, and how many more there are."""
    rest = detail
    for field in errors:
        rest = rest.replace(_said(field), "", 1)
    return rest != detail and re.fullmatch(r"[; ]*(\(and \d+ more\))?", rest) is not None


def describe(error: Exception) -> dict[str, Any]:
    """An error as JSON."""
    if isinstance(error, CommandError):
        return error.as_json()
    return {"title": type(error).__name__.removesuffix("Error"), "detail": str(error)}
