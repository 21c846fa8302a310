"""``perdure index``: the search index, which can always be rebuilt from what is stored."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from perdure.chassis import json
from perdure.cli.errors import CommandError
from perdure.cli.options import AsJson
from perdure.cli.output import Output, fields, table
from perdure.local.stack import Stack

app = typer.Typer(no_args_is_help=True, help="The search index.")

REBUILD = "perdure.indexer.rebuild"
VERIFY = "perdure.indexer.verify"
REPAIR = "perdure.indexer.repair"
STATUS = "perdure.indexer.status"
QUIET = {"PERDURE_LOG_LEVEL": "warning", "PERDURE_LOG_FORMAT": "console"}
"""A command's standard error is for people, unless the environment says otherwise."""

Full = Annotated[bool, typer.Option("--full", help="Read every document, instead of comparing digests.")]
Settled = Annotated[int, typer.Option("--settled-s", min=0, help="Leave out what is younger than so many seconds.")]


@app.command()
def rebuild(as_json: AsJson = False) -> None:
    """Write every stored state into the search index again."""
    output = Output(as_json)
    _run(REBUILD)
    output.result({"rebuilt": True}, "rebuilt")


@app.command()
def verify(*, full: Full = False, settled_s: Settled = 60, as_json: AsJson = False) -> None:
    """Compare the search index with the store; exit status 1 if they differ."""
    output = Output(as_json)
    found = json.loads(_run(VERIFY, *_asked(full=full, settled_s=settled_s)))
    output.result(found, *_shown(found, settled_s))
    if found["differences"]:
        raise typer.Exit(1)


@app.command()
def repair(*, full: Full = False, settled_s: Settled = 60, as_json: AsJson = False) -> None:
    """Repair what `perdure index verify` finds, from the store."""
    output = Output(as_json)
    found = json.loads(_run(REPAIR, *_asked(full=full, settled_s=settled_s)))
    output.result(found, *_shown(found, settled_s))
    output.note(
        "repaired; `perdure index verify` shows whether anything is left" if found["differences"] else "nothing to do"
    )


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show how far the search index is behind: events that are not searchable yet, and the newest that is."""
    output = Output(as_json)
    found = json.loads(_run(STATUS))
    output.result(found, fields(found, {name.replace("_", " "): name for name in found}))


def _run(module: str, *arguments: str) -> bytes:
    """What the indexer's module writes to stdout, in a process of its own: its libraries belong to no other program."""
    if find_spec(module) is None:
        raise CommandError("this installation has no indexer")
    command = [sys.executable, "-m", module, *arguments]
    environment = {**QUIET, **os.environ, **Stack().environment()}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise CommandError(f"{module} ended with exit status {done.returncode}; its messages are above")
    return done.stdout


def _asked(*, full: bool, settled_s: int) -> tuple[str, ...]:
    return ("--settled-s", str(settled_s), *(("--full",) if full else ()))


def _shown(found: dict[str, Any], settled_s: int) -> tuple[RenderableType, ...]:
    columns = {"kind": "kind", "of": "of", "id": "id", "index": "index"}
    compared = f"{found['states']} states and {found['threads']} threads compared; left out: what is younger than {settled_s} s"
    return compared, table(found["differences"], columns, "Index and database agree.")
