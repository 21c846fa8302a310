"""A process that begins an effect and is killed or frozen in it: ``effect_victim.py <uri> <db> <thread> <file> <timeout_s>``.

The effect's function appends a line to the file and then blocks until ``<file>.go`` exists; its receipt is ``"late"``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from effect_stage import Stage

from perdure.chassis import mongo
from perdure.sdk import effect


async def main(uri: str, name: str, thread: str, file: str, timeout_s: str) -> None:
    client = mongo.connect(uri)
    stage = Stage(client[name])

    def act(key: str) -> str:
        with Path(file).open("a") as effects:
            effects.write(f"{key}\n")
        while not Path(f"{file}.go").exists():
            time.sleep(0.02)
        return "late"

    async def node(_: Any) -> Any:
        return {"result": await effect("order", act, timeout=timedelta(seconds=float(timeout_s)))}

    print(await stage.play(thread, node), flush=True)
    await stage.close()
    client.close()


asyncio.run(main(*sys.argv[1:]))
