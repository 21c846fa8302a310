"""Options that several commands share, so that each is spelled and explained once."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:8123"

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and nothing else there.")]
Url = Annotated[str, typer.Option("--url", envvar="PERDURE_URL", help="Where the gateway is.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many at most.")]
ThreadArgument = Annotated[str, typer.Argument(metavar="THREAD", help="A thread id.")]
ThreadOrRun = Annotated[str, typer.Argument(metavar="THREAD|RUN", help="A thread id, or a run id.")]
RunArgument = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="After a thread id: a run id; by default its newest run that fits."),
]
