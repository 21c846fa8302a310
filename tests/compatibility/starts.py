"""The operations that start a run, so that one probe can ask the same of each of them: start, and what the run ended with.

Each is called by the Python SDK where the SDK has the option, else by HTTP.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.compatibility.probe import Probe, claim, probe
from tests.compatibility.stage import Stage

Values = dict[str, Any]
NOT_BY_SDK: Final = frozenset({"checkpoint_during", "langsmith_tracer"})
"""Options that the SDK names otherwise, or warns of."""


@dataclass(frozen=True)
class Start:
    """One operation that starts a run.

    Attributes:
        kind: ``create`` (the run is joined), ``wait``, ``stream`` or ``batch``.
        stateful: The path names a thread.

    """

    kind: str
    stateful: bool

    @property
    def operation(self) -> str:
        end = "" if self.kind == "create" else f"/{self.kind}"
        return f"POST {'/threads/{thread_id}' if self.stateful else ''}/runs{end}"

    async def __call__(self, stage: Stage, graph: str = "walk", thread: str | None = None, **options: Any) -> Values:
        """The values that the run ended with, ``__error__`` and ``__interrupt__`` among them."""
        if self.stateful and thread is None:
            thread = await stage.thread()
        if "command" not in options:
            options.setdefault("input", {"n": 1})
        if self.kind in {"create", "batch"}:
            run = await self.run(stage, graph, thread, **options)
            return dict(await stage.sdk.runs.join(run["thread_id"], run["run_id"]))
        self._keep(options)
        if self.kind == "wait":
            if _by_sdk(stage.sdk.runs.wait, options):
                return dict(await stage.sdk.runs.wait(thread, graph, raise_error=False, **options))
            body = {"assistant_id": graph, **options}
            return dict((await stage.http.post(self.path(thread), json=body)).raise_for_status().json())
        return await self._streamed(stage, graph, thread, options)

    async def run(self, stage: Stage, graph: str, thread: str | None, **options: Any) -> Any:
        """The run as the start answered it, of the kinds that do not wait; its thread is kept."""
        self._keep(options)
        if self.kind == "batch":
            (run,) = await stage.sdk.runs.create_batch([{"assistant_id": graph, **options}])  # type: ignore[typeddict-item]
            return run
        if _by_sdk(stage.sdk.runs.create, options):
            return await stage.sdk.runs.create(thread, graph, **options)
        body = {"assistant_id": graph, **options}
        return (await stage.http.post(self.path(thread), json=body)).raise_for_status().json()

    def path(self, thread: str | None) -> str:
        """The operation's path."""
        return self.operation.partition(" ")[2].replace("{thread_id}", thread or "")

    def _keep(self, options: Values) -> None:
        """Keep the thread that is made with the run, so that it can be read."""
        if not self.stateful:
            options.setdefault("on_completion", "keep")

    async def _streamed(self, stage: Stage, graph: str, thread: str | None, options: Values) -> Values:
        values: Values = {}
        if not _by_sdk(stage.sdk.runs.stream, options):
            parts = stage.sdk.http.stream(self.path(thread), "POST", json={"assistant_id": graph, **options})
        else:
            parts = stage.sdk.runs.stream(thread, graph, **options)
        async for part in parts:
            if part.event == "values":
                values = dict(part.data) | {name: values[name] for name in values if name.startswith("__")}
            elif part.event == "error":
                values["__error__"] = part.data
        return values


def _by_sdk(method: Callable[..., Any], options: Values) -> bool:
    return not NOT_BY_SDK & options.keys() and options.keys() <= inspect.signature(method).parameters.keys()


STATEFUL: Final = (Start("create", stateful=True), Start("wait", stateful=True))
STATELESS: Final = (Start("create", stateful=False), Start("wait", stateful=False), Start("batch", stateful=False))
STREAMS: Final = (Start("stream", stateful=True), Start("stream", stateful=False))
ALL: Final = (*STATEFUL, *STATELESS, *STREAMS)


def of_each(
    starts: tuple[Start, ...], run: Callable[[Stage, Start], Any], *, partly: Values | None = None, **more: Any
) -> list[Probe]:
    """The probe of each start; ``more`` are the places of the claim and what :func:`probe` takes."""
    given = {name: more.pop(name) for name in ("differs", "reference") if name in more}
    return [
        probe(_bound(run, start), claim(start.operation, partly=partly, **more), name=start.operation, **given)
        for start in starts
    ]


def _bound(run: Callable[[Stage, Start], Any], start: Start) -> Callable[[Stage], Any]:
    async def bound(stage: Stage) -> None:
        await run(stage, start)

    bound.__name__, bound.__module__ = run.__name__, run.__module__
    return bound
