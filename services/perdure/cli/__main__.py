"""Entry of ``perdure``: runs a command and turns what goes wrong into one message and an exit status."""

from __future__ import annotations

import sys

from perdure.chassis.errors import PerdureError
from perdure.cli.errors import describe
from perdure.cli.version import QUICK


def main() -> None:
    """Run the command line; exits with 0, 1 (failed), 2 (used wrongly) or 130 (interrupted)."""
    if quick := QUICK.get(tuple(sys.argv[1:])):
        print(quick())
        return
    from perdure.cli.app import build

    try:
        build()(prog_name="perdure")
    except PerdureError as error:
        _show(error)
        sys.exit(1)


def _show(error: PerdureError) -> None:
    from rich.console import Console

    from perdure.chassis import json

    if "--json" in sys.argv:
        sys.stderr.write(json.dumps(describe(error)).decode() + "\n")
        return
    console = Console(stderr=True, soft_wrap=True)
    console.print("[bold red]error:[/]", end=" ")
    console.print(str(error), markup=False, highlight=False)


if __name__ == "__main__":
    main()
