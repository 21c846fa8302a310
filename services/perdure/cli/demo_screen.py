"""What the demo shows: chapters, requests and answers, progress bars, tables.

Contract: bars on a terminal; elsewhere a line every few seconds. Everything goes to standard output.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from perdure.chassis import json
from perdure.cli.demo_agents import Agent

_LINE_EVERY_S = 2.0
_BODY_WIDTH = 150
_NARROW = 100

Counts = Mapping[str, int]
"""How much each agent has done, by its name."""


class Screen:
    """A console and the number of the chapter."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._chapter = 0

    def chapter(self, title: str, text: str) -> None:
        """Begin a chapter."""
        self._chapter += 1
        self.console.print()
        self.console.rule(f"[bold]{self._chapter}. {title}", align="left", style="cyan")
        self.console.print(text, style="dim", highlight=False)

    def say(self, text: str) -> None:
        """One line of text (rich markup)."""
        self.console.print(text, highlight=False)

    def request(self, method: str, path: str, body: Any = None) -> None:
        """Show what is asked."""
        text = Text.assemble(("-> ", "cyan"), (f"{method} {path}", "bold"))
        if body is not None:
            shown = json.dumps(body).decode()
            text.append(f" {shown}" if len(shown) <= _BODY_WIDTH else f" {shown[:_BODY_WIDTH]}...", style="dim")
        self.console.print(text)

    def answer(self, status: str, *lines: str) -> None:
        """Show what is answered."""
        self.console.print(Text.assemble(("<- ", "green"), (status, "bold green")))
        for line in lines:
            self.console.print(Text(f"   {line}"), overflow="fold")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
        """A table."""
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2))
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def report(self, text: str, lines: int, title: str) -> None:
        """The beginning of a Markdown text in a frame."""
        every = text.splitlines()
        shown = "\n".join(every[:lines]) + (f"\n\n*... {len(every) - lines} more lines*" if len(every) > lines else "")
        width = min(self.console.width, _NARROW + 20)
        self.console.print(Panel(Markdown(shown), title=title, width=width, border_style="cyan"))

    def follow(self, agents: Sequence[Agent], look: Callable[[], Counts], done: Callable[[Counts], bool]) -> Counts:
        """Show how far the agents are until ``done`` says so; ``look`` takes its time between two looks."""
        totals = {agent.name: len(agent.files) for agent in agents}
        if not self.console.is_terminal:
            return self._follow_lines(totals, look, done)
        columns = (TextColumn("{task.description}"), BarColumn(40), MofNCompleteColumn(), TextColumn("files"))
        with Progress(*columns, TimeElapsedColumn(), console=self.console) as progress:
            bars = {name: progress.add_task(name, total=total) for name, total in totals.items()}
            while True:
                counts = look()
                for name, count in counts.items():
                    progress.update(bars[name], completed=count)
                if done(counts):
                    return counts

    def _follow_lines(
        self, totals: Mapping[str, int], look: Callable[[], Counts], done: Callable[[Counts], bool]
    ) -> Counts:
        shown = 0.0
        while True:
            counts = look()
            ended = done(counts)
            if ended or time.monotonic() - shown >= _LINE_EVERY_S:
                shown = time.monotonic()
                self.say("   " + "   ".join(f"{name}: {counts[name]}/{totals[name]} files" for name in totals))
            if ended:
                return counts


def verdict_text(good: bool, text: str) -> Text:
    """Green or red."""
    return Text(text, style="green" if good else "bold red")
