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
