"""The same probes against the reference: ``langgraph dev`` with langgraph-api, offline (``make compatibility-reference``).

``python -m tests.compatibility.reference VENV`` starts the server that the virtual environment ``VENV`` has, on the graphs of the
probes, and says of each probe whether it holds there. It ends with status 1 unless the differences that docs/compatibility.md lists
are exactly those that there are, and the committed surface is that of the server's own description.

What a probe shows of our own limits (partly, refused) says nothing about the reference, so it is run and not judged.
``--url URL`` asks a server that runs already, ``--only WORD`` runs the probes whose names hold the word.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import httpx
from tests.compatibility.catalogue import PROBES
from tests.compatibility.described import surface_differences
from tests.compatibility.probe import Probe
from tests.compatibility.running import failures_of
from tests.support.polling import until_blocking

from perdure.local.resources import free_port

GRAPHS = Path(__file__).with_name("graphs")
OFFLINE = {"LANGSMITH_TRACING": "false", "LANGGRAPH_NO_VERSION_CHECK": "true"}
WEBHOOKS = {"webhooks": {"url": {"disable_loopback": False, "require_https": False}}}
"""The probes' webhooks are on this machine."""
START_TIMEOUT_S = 90.0


@contextmanager
def reference_server(venv: Path, log: Path) -> Iterator[str]:
    """The URL of ``langgraph dev`` on a free port; what it keeps beside the graphs goes with a temporary folder."""
    port = free_port()
    command = [str(venv / "bin" / "langgraph"), "dev", "--no-browser", "--no-reload", "--allow-blocking"]
    command += ["--port", str(port), "--n-jobs-per-worker", "20"]
    with log.open("wb") as output, tempfile.TemporaryDirectory() as made:
        folder = shutil.copytree(GRAPHS, Path(made) / "graphs")
        config = json.loads((folder / "langgraph.json").read_text())
        (folder / "langgraph.json").write_text(json.dumps(config | WEBHOOKS))
        server = subprocess.Popen(
            command, cwd=folder, env=os.environ | OFFLINE, stdout=output, stderr=output, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}"
        try:
            until_blocking(lambda: _answers(server, url), "the reference answers", START_TIMEOUT_S, log.read_text)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _answers(server: subprocess.Popen[bytes], url: str) -> bool:
    if server.poll() is not None:
        raise AssertionError("the reference has ended")
    try:
        return httpx.get(f"{url}/ok").status_code == 200
    except httpx.TransportError:
        return False


def is_judged(probe: Probe) -> bool:
    """Whether the reference must behave as the probe says: not where a probe shows a limit of ours."""
    return probe.reference and not any(claim.partly or claim.refused for claim in probe.claims)


def verdict_of(probe: Probe, failure: str | None) -> str:
    """``same``, ``differs`` as the page says, or what is wrong: ``FAILS`` there, or ``HOLDS`` although the page says not."""
    if probe.differs:
        return "HOLDS" if failure is None else "differs"
    if not is_judged(probe):
        return "not judged"
    return "same" if failure is None else "FAILS"


def main() -> int:
    """Run the probes and print what they say; the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("venv", type=Path, nargs="?")
    parser.add_argument("--url")
    parser.add_argument("--only", default="")
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()) / "compatibility-reference.log")
    options = parser.parse_args()
    probes = [one for one in PROBES if options.only in one.name and one.reference]
    server = nullcontext(options.url) if options.url else reference_server(options.venv, options.log)
    with server as url:
        surface = surface_differences(httpx.get(f"{url}/openapi.json").json())
        failures = asyncio.run(failures_of(probes, url, claims=False))
        # Its development server closes a connection in use now and then, so what failed is asked once more.
        again = [one for one in probes if verdict_of(one, failures.get(one.name)) == "FAILS"]
        repeated = asyncio.run(failures_of(again, url, claims=False))
        failures = {name: why for name, why in failures.items() if name not in {one.name for one in again}} | repeated
    verdicts = {one.name: verdict_of(one, failures.get(one.name)) for one in probes}
    for name, verdict in verdicts.items():
        print(f"{verdict:10} {name}")
        if verdict == "FAILS":
            print(failures[name])
    for line in surface:
        print(f"surface    {line}")
    wrong = [name for name, verdict in verdicts.items() if verdict in {"FAILS", "HOLDS"}]
    print(
        f"{len(probes)} probes, {len(wrong)} not as the page says; {len(surface)} operations differ from the description"
    )
    return 1 if wrong or surface else 0


if __name__ == "__main__":
    sys.exit(main())
