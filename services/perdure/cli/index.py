"""``perdure index``: the search index, which can always be rebuilt from what is stored."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import typer

from perdure.cli.errors import CommandError
from perdure.cli.options import AsJson
from perdure.cli.output import Output
from perdure.local.stack import Stack

app = typer.Typer(no_args_is_help=True, help="The search index.")

REBUILD = "perdure.indexer.rebuild"


@app.command()
def rebuild(as_json: AsJson = False) -> None:
    """Write every stored state into the search index again."""
    output = Output(as_json)
    if find_spec(REBUILD) is None:
        raise CommandError("this installation has no indexer")
    # A process of its own: the indexer's libraries belong to no other program.
    done = subprocess.run(
        [sys.executable, "-m", REBUILD], env={**os.environ, **Stack().environment()}, stdout=sys.stderr, check=False
    )
    if done.returncode:
        raise CommandError(f"the rebuild ended with exit status {done.returncode}; its messages are above")
    output.result({"rebuilt": True}, "rebuilt")
