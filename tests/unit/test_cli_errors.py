"""How the command line fails: exit status, where the message goes and what it says."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from perdure.cli.__main__ import main
from perdure.cli.errors import ProblemError
from perdure.cli.states import matched
from perdure.cli.stuck import lines_of
from perdure.local.resources import free_port

PROBLEM = {
    "type": "urn:perdure:problem:invalid",
    "title": "Invalid request",
    "status": 422,
    "detail": "2 fields are wrong.",
    "errors": [{"pointer": "/input", "detail": "must be an object"}],
}


@pytest.fixture
def answering() -> Iterator[Callable[[int, bytes], str]]:
    """An HTTP server that gives one answer to everything."""
    servers: list[HTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                """Be silent."""

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def perdure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: (exit status, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perdure", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


Run = Callable[..., tuple[int, str, str]]


def test_a_problem_says_what_where_and_what_to_do(perdure: Run, answering: Callable[[int, bytes], str]) -> None:
    url = answering(422, json.dumps(PROBLEM).encode())
    status, out, err = perdure("threads", "show", "a/b", "--url", url)
    assert (status, out) == (1, "")
    assert "Invalid request (HTTP 422, GET /threads/a%2Fb)" in err
    assert "2 fields are wrong." in err
    assert "/input: must be an object" in err
    assert "\x1b" not in err


def test_with_json_the_problem_document_is_on_stderr(perdure: Run, answering: Callable[[int, bytes], str]) -> None:
    url = answering(422, json.dumps(PROBLEM).encode())
    status, out, err = perdure("runs", "start", "g", "--json", "--url", url)
    assert (status, out) == (1, "")
    assert json.loads(err) == PROBLEM


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (502, b"<html>bad gateway")])
def test_an_answer_that_is_none_of_ours_is_said(
    perdure: Run, answering: Callable[[int, bytes], str], status: int, body: bytes
) -> None:
    code, _, err = perdure("threads", "show", "x", "--url", answering(status, body))
    assert code == 1
    assert "is it a gateway?" in err if status == 200 else "bad gateway" in err


def test_a_gateway_that_is_away_is_said(perdure: Run) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    status, out, err = perdure("state", "x", "--url", url)
    assert (status, out) == (1, "")
    assert f"gateway at {url} does not answer" in err
    assert "start it with `perdure up`" in err


def test_the_url_may_come_from_the_environment(perdure: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_URL", "nonsense")
    status, _, err = perdure("state", "x")
    assert status == 1
    assert "'nonsense' is no gateway URL" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs", "start"),
        ("runs", "start", "g", "--input", "{"),
        ("search", "--since", "long ago"),
        ("search", "--limit", "0"),
        ("fly",),
        ("up", "--config", "/nowhere/langgraph.json"),
    ],
)
def test_wrong_usage_is_two(perdure: Run, arguments: tuple[str, ...]) -> None:
    status, out, err = perdure(*arguments)
    assert (status, out) == (2, "")
    assert "perdure" in err


def test_versions_are_json_when_asked(perdure: Run) -> None:
    status, out, err = perdure("version", "--json")
    assert (status, err) == (0, "")
    assert {"perdure", "langgraph", "motor"} <= json.loads(out).keys()


def test_nothing_runs_in_an_empty_folder(
    perdure: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("PERDURE_DATA_DIR", str(tmp_path))
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "MONGODB_URI", "OPENSEARCH_URL"):
        monkeypatch.delenv(f"PERDURE_{name}", raising=False)
    assert perdure("status", "--json")[:2] == (0, "[]\n")
    assert perdure("down", "--json")[:2] == (0, '{"stopped":[]}\n')
    status, _, err = perdure("logs", "kafka")
    assert status == 1
    assert "kafka was not started" in err


def test_a_mistake_in_a_text_is_pointed_at() -> None:
    error = {"pointer": "query:q", "detail": "did you mean node?", "position": 2}
    shown = str(ProblemError("GET /search", 422, {"title": "not valid", "errors": [error]}, {"q": "a ndoe:x"}))
    assert shown.endswith("  query:q: did you mean node?\n    a ndoe:x\n      ^")


ONCE = {
    "type": "urn:perdure:problem:invalid-request",
    "title": "The request is not valid",
    "status": 422,
    "detail": "query:q: there is no field ndoe; query:by: must be one of day",
    "errors": [
        {"pointer": "query:q", "detail": "there is no field ndoe", "position": 2},
        {"pointer": "query:by", "detail": "must be one of day"},
    ],
}


def test_each_mistake_is_said_once(perdure: Run, answering: Callable[[int, bytes], str]) -> None:
    _, _, err = perdure("search", "a ndoe:x", "--url", answering(422, json.dumps(ONCE).encode()))
    assert err.count("there is no field ndoe") == 1
    assert err.count("must be one of day") == 1
    assert "    a ndoe:x\n      ^" in err


def test_a_detail_that_says_more_than_the_mistakes_is_shown() -> None:
    said = str(ProblemError("GET /x", 422, ONCE | {"detail": f"{ONCE['detail']} (and 1 more)"}))
    assert said.count("ndoe") == 1
    said = str(ProblemError("GET /x", 422, ONCE | {"detail": "2 fields are wrong"}))
    assert "2 fields are wrong" in said
    assert said.count("ndoe") == 1


STUCK = {
    "thread_id": "01a22a0f-9513-7709-b275-311248377b42",
    "graph": "payer",
    "nodes": ["pay"],
    "code": "poison",
    "reason": "Parked: crashed its worker 5 times, the last time with SIGSEGV in libfoo. " * 4,
    "since": "2026-11-30T08:47:57.653288Z",
    "recovered_at": None,
    "last_error": {"type": "perdure.crash", "message": "crashed its worker 5 times", "node": None, "at": None},
}


def test_who_is_stuck_is_narrow_and_says_why_once() -> None:
    head, reason = str(lines_of(STUCK)).splitlines()
    assert head == "01a22a0f-9513-7709-b275-311248377b42  payer at pay  poison since 2026-11-30 08:47:57"
    assert reason.strip() == str(STUCK["reason"]).strip()
    other = lines_of(STUCK | {"reason": "stands still", "last_error": {"message": "the page\ndid not answer"}})
    assert str(other).splitlines()[1:] == ["    stands still", "    last error: the page", "    did not answer"]


def test_what_matched_is_shown_as_text() -> None:
    item = {
        "highlights": {"text": ["log: <em>connection</em> &lt;reset&gt;\n by peer"], "wait.text": ["<em>Pay</em>?"]}
    }
    assert matched(item) == "log: connection <reset> by peer; wait.text: Pay?"
    assert matched({"highlights": {}}) == ""
