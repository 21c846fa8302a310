"""``perdure demo``: several agents audit a real source tree; their worker is killed in the middle; nothing is lost.

Contract: starts everything it needs on free ports with temporary data, takes a minute or two, ends with ``demo: ok``
and exit status 0 if every promise shown was kept, else with 1, what failed and where the logs are. Leaves nothing
running, also after Ctrl-C. Everything that it learns about the agents, it learns over HTTP.
"""

from __future__ import annotations

import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import typer
from rich.console import Console
from rich.text import Text

from perdure.chassis.clock import now
from perdure.chassis.errors import PerdureError
from perdure.cli.client import Gateway
from perdure.cli.demo_agents import Agent, compare, divide, early_finding, recovery, walk
from perdure.cli.demo_screen import Counts, Screen, verdict_text
from perdure.cli.demo_stage import LEASE_TTL_S, DemoFailedError, Stage
from perdure.cli.errors import ProblemError

GRAPH: Final = "code_audit"
AGENTS: Final = 4
KILL_AT: Final = 0.3
"""The worker is killed when every agent has read this part of its files."""
LOOK_EVERY_S: Final = 0.25
PIPE_WIDTH: Final = 120
TIME_LIMIT_S: Final = 240.0
REPORT_LINES: Final = 30
AWAY: Final = 503
"""The status of an answer when the search index is away for a moment."""
ENDED_BADLY: Final = frozenset({"error", "timeout", "cancelled"})


def demo() -> None:
    """Run the demo.

    :raises typer.Exit: with 1 when something failed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # also where the shell had switched Ctrl-C off
        signal.signal(number, signal.default_int_handler)
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    stage = Stage(console)
    try:
        with stage:
            Story(stage, Screen(console)).tell()
    except (PerdureError, httpx.HTTPError) as error:
        console.print("[bold red]demo: failed[/]:", end=" ")
        console.print(str(error), markup=False, highlight=False)
        raise typer.Exit(1) from error
    console.print("[bold green]demo: ok")


class Story:
    """The chapters, told in order."""

    def __init__(self, stage: Stage, screen: Screen) -> None:
        self._stage = stage
        self._screen = screen
        self._gateway = Gateway(stage.services.gateway_url)
        self._root = Path(sysconfig.get_path("stdlib")).resolve()
        self._agents: list[Agent] = []
        self._values: dict[str, dict[str, Any]] = {}
        self._killed_at = now()
        self._deadline = time.monotonic() + TIME_LIMIT_S

    def tell(self) -> None:
        """All of it.

        :raises DemoFailedError: something is not as it must be.
        """
        with self._gateway:
            self._work()
            self._starts()
            self._kill()
            self._recover()
            self._check_files()
            self._approve()
            self._search()

    def _work(self) -> None:
        parts = walk(self._root)
        self._agents = divide(parts, AGENTS)
        files = sum(map(len, parts.values()))
        self._screen.chapter(
            "The work",
            f"{len(self._agents)} agents audit Python's own standard library, {files} files in {self._root}. "
            "It is an ordinary LangGraph graph, examples/code_audit: three files and one checkpoint per superstep.",
        )
        rows = [[a.name, str(len(a.files)), _shorten(", ".join(a.packages))] for a in self._agents]
        self._screen.table(["agent", "files", "parts of the tree"], rows)

    def _starts(self) -> None:
        self._screen.chapter(
            "Start over HTTP", f"All at once, at {self._gateway.url}. 202: the run is stored, come back when you like."
        )
        with ThreadPoolExecutor(len(self._agents)) as pool:
            answers = list(pool.map(self._post, self._agents))
        for agent, (body, answer) in zip(self._agents, answers, strict=True):
            if answer.status_code != httpx.codes.ACCEPTED:
                raise DemoFailedError(f"POST /runs was answered {answer.status_code}: {answer.text[:500]}")
            run = answer.json()
            agent.thread_id, agent.run_id = run["thread_id"], run["run_id"]
            agent.location = answer.headers["Location"]
            self._screen.request("POST", "/runs", body)
            self._screen.answer("202 Accepted", f"Location: {agent.location}")

    def _post(self, agent: Agent) -> tuple[dict[str, Any], httpx.Response]:
        output = str(self._stage.folder / "reports")
        body = {
            "assistant_id": GRAPH,
            "input": {"packages": agent.packages, "root": str(self._root), "output": output, "title": agent.name},
        }
        key = {"Idempotency-Key": f"demo-{agent.name}"}
        return body, httpx.post(f"{self._gateway.url}/runs", json=body, headers=key, timeout=30.0, trust_env=False)

    def _kill(self) -> None:
        worker = self._stage.services["agent_step"]
        self._screen.chapter(
            "Poll, and kill the worker",
            f"All agents run in one agent-step process (pid {worker.pid}). The demo polls GET /threads/ID/state; when "
            f"each has read {KILL_AT:.0%} of its files, it kills that process with SIGKILL: it cannot save anything.",
        )
        wanted = {agent.name: len(agent.files) * KILL_AT for agent in self._agents}
        self._screen.follow(self._agents, self._look, lambda c: all(c[name] >= n for name, n in wanted.items()))
        worker.kill()
        self._killed_at = now()
        self._screen.say(f"[bold red]kill -9 {worker.pid}[/]  agent-step is gone")
        for agent in self._agents:
            state = self._state(agent)
            agent.kill_step = state["metadata"]["step"]
            agent.kill_checkpoint = state["checkpoint"]["checkpoint_id"]
            agent.kill_files = len(state["values"]["audited"])
            agent.waiting_at_kill = bool(state["interrupts"])

    def _recover(self) -> None:
        started = time.monotonic()
        worker = self._stage.services["agent_step"]
        self._screen.chapter(
            "Start it again",
            f"A killed process does not sign off: its lease must run out first. It is {LEASE_TTL_S} s here, to be "
            "quick (PERDURE_LEASE_TTL_S; 10 s by default). Then the scheduler gives its runs to whoever is there.",
        )
        worker.start()
        self._screen.say(f"agent-step runs again (pid {worker.pid}, ready after {time.monotonic() - started:.1f} s)")
        self._screen.follow(self._agents, self._look, lambda _: all(map(self._waits, self._agents)))
        rows = [self._recovered(agent) for agent in self._agents]
        self._screen.say("Every agent went on from its last checkpoint:")
        self._screen.table(["agent", "last checkpoint before the kill", "first after it", "history"], rows)

    def _recovered(self, agent: Agent) -> list[str]:
        self._values[agent.name] = self._state(agent)["values"]
        history = self._gateway.get("threads", agent.thread_id, "history", limit=1000)
        found = recovery(agent, history)
        if found.problems:
            raise DemoFailedError(f"{agent.name} (thread {agent.thread_id}): {'; '.join(found.problems)}")
        first = "was waiting already"
        if found.created_at is not None:
            after_s = (found.created_at - self._killed_at).total_seconds()
            first = f"step {found.first_step}, {after_s:.1f} s after the kill"
        last = f"step {agent.kill_step}, {agent.kill_files} files"
        return [agent.name, last, first, f"{len(history)} states, each step once"]

    def _check_files(self) -> None:
        self._screen.chapter(
            "Nothing missing, nothing twice",
            "The files in each agent's state, against a walk of the tree by the demo itself.",
        )
        rows: list[list[str | Text]] = []
        good = True
        for agent in self._agents:
            values, verdict = self._values[agent.name], compare(agent, self._values[agent.name])
            good = good and verdict.good
            read, found = len(values["audited"]), len(values["findings"])
            rows.append(
                [
                    agent.name,
                    str(len(agent.files)),
                    str(read),
                    verdict_text(not verdict.missing, _count(verdict.missing)),
                    verdict_text(not verdict.twice, _count(verdict.twice)),
                    str(found),
                ]
            )
        self._screen.table(["agent", "files on disk", "files in state", "missing", "twice", "findings"], rows)
        if not good:
            raise DemoFailedError("the results are not what is on the disk")

    def _approve(self) -> None:
        self._screen.chapter(
            "A person approves",
            "Each agent waits at interrupt(): its state is stored, nothing of it is in memory. The answer resumes it.",
        )
        state = self._state(self._agents[0])
        question = state["interrupts"][0]["value"]["question"]
        self._screen.say(f'{self._agents[0].name} asks: [italic]"{question}"')
        body = {"assistant_id": GRAPH, "command": {"resume": {"decision": "approve", "reason": "Thank you."}}}
        self._screen.request("POST", f"/threads/{self._agents[0].thread_id}/runs", body)
        for agent in self._agents:
            agent.run_id = self._gateway.post("threads", agent.thread_id, "runs", body=body)["run_id"]
        self._poll("the reports", lambda: all(self._status(agent) == "success" for agent in self._agents))
        for agent in self._agents:
            values = self._values[agent.name] = self._state(agent)["values"]
            if Path(values["report_path"]).read_text(encoding="utf-8") != values["report"]:
                raise DemoFailedError(f"{values['report_path']} is not the report in the state of {agent.name}")
        values = self._values[self._agents[0].name]
        self._screen.report(values["report"], REPORT_LINES, Path(values["report_path"]).name)

    def _search(self) -> None:
        found = next(((a, f) for a in self._agents if (f := early_finding(self._values[a.name]))), None)
        if found is None:
            raise DemoFailedError(f"no agent found anything in the first half of {self._root}")
        agent, finding = found
        words = f'"{finding["construct"]} in {finding["file"]} line {finding["line"]}"'
        self._screen.chapter(
            "Find a past state", "Every superstep is a document in OpenSearch. What did which agent know, and when?"
        )
        self._screen.request("GET", f"/search?q={words}&thread_id={agent.thread_id}")
        hits: list[dict[str, Any]] = []

        def look() -> bool:
            try:
                hits[:] = self._gateway.get("search", q=words, thread_id=agent.thread_id, limit=5)["items"]
            except ProblemError as problem:
                if problem.status != AWAY:
                    raise
            return bool(hits)

        self._poll("the index", look)
        hit = min(hits, key=lambda item: int(item["seq"]))
        past = self._gateway.get("threads", agent.thread_id, "state", hit["checkpoint_id"])
        values = past["values"]
        if finding not in values["findings"] or len(values["audited"]) >= len(agent.files):
            raise DemoFailedError(f"checkpoint {hit['checkpoint_id']} is not the state that the search was for")
        self._screen.answer(
            f"200 OK, {len(hits)} {'state' if len(hits) == 1 else 'states'}; the earliest:",
            f"{agent.name} at step {hit['step']} ({hit['occurred_at']}), checkpoint {hit['checkpoint_id']}",
            f"It had read {len(values['audited'])} of {len(agent.files)} files then, and had just seen:",
            f"{finding['file']}:{finding['line']}  {finding['snippet']}",
        )

    def _look(self) -> Counts:
        """How many files each agent has read; waits a little first."""
        time.sleep(LOOK_EVERY_S)
        if time.monotonic() > self._deadline:
            raise DemoFailedError(f"the agents did not come to their question within {TIME_LIMIT_S:.0f} s")
        counts = {}
        for agent in self._agents:
            self._status(agent)
            counts[agent.name] = self._files_read(agent)
        return counts

    def _files_read(self, agent: Agent) -> int:
        try:
            values = self._state(agent)["values"] or {}
        except ProblemError as error:
            if error.status == httpx.codes.NOT_FOUND:  # no checkpoint yet
                return 0
            raise
        return len(values.get("audited", ()))

    def _state(self, agent: Agent) -> dict[str, Any]:
        state: dict[str, Any] = self._gateway.get("threads", agent.thread_id, "state")
        return state

    def _waits(self, agent: Agent) -> bool:
        return self._status(agent) == "interrupted"

    def _status(self, agent: Agent) -> str:
        """The status of the agent's run; a run that ended badly ends the demo."""
        run = self._gateway.get("threads", agent.thread_id, "runs", agent.run_id)
        if run["perdure_status"] in ENDED_BADLY:
            error = run.get("error") or {}
            why = f"{error.get('type')} in node {error.get('node')}: {error.get('message')}"
            raise DemoFailedError(f"{agent.name}: run {agent.run_id} ended in {run['perdure_status']}: {why}")
        return str(run["perdure_status"])

    def _poll(self, what: str, done: Callable[[], bool]) -> None:
        with self._screen.console.status(f"waiting for {what}"):
            while not done():
                if time.monotonic() > self._deadline:
                    raise DemoFailedError(f"waited for {what} until {TIME_LIMIT_S:.0f} s had passed")
                time.sleep(LOOK_EVERY_S)


def _count(files: Sequence[str]) -> str:
    return "0" if not files else f"{len(files)}: {_shorten(', '.join(files))}"


def _shorten(text: str, width: int = 90) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
