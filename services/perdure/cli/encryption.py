"""``perdure keys rotate-encryption``: encrypt what is stored with the key that is first now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.errors import CommandError
from perdure.cli.options import AsJson
from perdure.cli.output import Output, fields
from perdure.local.stack import Stack

if TYPE_CHECKING:
    from perdure.chassis.resealing import Report
    from perdure.chassis.settings import ServiceSettings


def rotate_encryption(
    check: Annotated[
        bool, typer.Option("--check", help="Count what is left, change nothing; exit status 1 if any.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Encrypt every stored value with the first key of PERDURE_ENCRYPTION_KEYS, while the system runs.

    Values in the clear are encrypted, values under another key are encrypted anew. A run that was stopped is gone on with.
    """
    output = Output(as_json)
    found = asyncio.run(_reseal(change=not check))
    output.result(found, fields(found, {name.replace("_", " "): name for name in found}))
    if check and found["left"]:
        raise typer.Exit(1)


async def _reseal(*, change: bool) -> dict[str, Any]:
    from perdure.chassis import mongo
    from perdure.chassis.keyring import SealedError
    from perdure.chassis.resealing import reseal
    from perdure.chassis.service import switch_on
    from perdure.cli.provision import service_settings

    settings: ServiceSettings = service_settings(Stack().environment())
    switch_on(settings)
    client = mongo.connect(settings.mongodb)
    try:
        report: Report = await reseal(mongo.database(client, settings.mongodb), change=change)
    except SealedError as error:
        raise CommandError(str(error)) from error
    finally:
        client.close()
    return report.as_json()
