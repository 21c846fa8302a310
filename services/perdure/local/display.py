"""What a person sees while servers are fetched and started: progress bars on a terminal, plain lines elsewhere.

Contract: every method may be called from any thread. Nothing is shown unless a :class:`ConsoleDisplay` is passed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

_LINE_EVERY_S = 5.0


Advance = Callable[[int], None]
"""Tell that a download went on by so many bytes."""


class Display(Protocol):
    """Where progress goes."""

    def say(self, text: str) -> None:
        """Show one line."""

    def download(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """Show a download of ``total`` bytes."""

    def step(self, what: str) -> AbstractContextManager[None]:
        """Show that something is going on until the block ends."""


def _ignore(size: int) -> None:
    """Show nothing."""


class SilentDisplay:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Ignore the line."""

    @contextmanager
    def download(self, what: str, total: int) -> Iterator[Advance]:  # noqa: ARG002 (a Display)
        """Ignore the progress."""
        yield _ignore

    @contextmanager
    def step(self, what: str) -> Iterator[None]:  # noqa: ARG002 (a Display)
        """Ignore the step."""
        yield


class _SizeColumn(DownloadColumn):
    """How much of a download is done; nothing for steps, which have no size."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class ConsoleDisplay:
    """Progress bars with rich; on anything but a terminal, lines: one per step, one every few seconds of a download."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._progress: Progress | None = None
        if self.console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(finished_text="[green]✓[/]"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                _SizeColumn(),
                TimeElapsedColumn(),
                console=self.console,
            )

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._progress:
            self._progress.stop()

    def say(self, text: str) -> None:
        """Show one line above the bars."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def download(self, what: str, total: int) -> Iterator[Advance]:
        """Show a download of ``total`` bytes; call what is yielded with the bytes that arrived."""
        started = time.monotonic()
        if self._progress:
            task = self._progress.add_task(escape(f"fetch {what}"), total=total)
            yield lambda size: self._progress.advance(task, size) if self._progress else None
        else:
            self.say(f"{what}: fetching {total / 1e6:.0f} MB")
            yield _lines(self, what, total)
        self.say(f"{what}: fetched {total / 1e6:.0f} MB in {time.monotonic() - started:.1f} s")

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show that something is going on until the block ends."""
        started = time.monotonic()
        if self._progress:
            spinner = self._progress.add_task(escape(what), total=None)
            try:
                yield
            finally:
                self._progress.remove_task(spinner)
                self._progress.refresh()
        else:
            self.say(f"{what} ...")
            yield
        self.say(f"{what}: done in {time.monotonic() - started:.1f} s")


def _lines(display: ConsoleDisplay, what: str, total: int) -> Advance:
    done, last = 0, time.monotonic()

    def advance(size: int) -> None:
        nonlocal done, last
        done += size
        if time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            display.say(f"{what}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    return advance
