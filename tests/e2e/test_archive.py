"""The life of a thread to the archive and back, and its end, as users and operators see it: HTTP, search and command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

from perdure.local.stack import Stack

pytestmark = pytest.mark.timeout(240)

POLICY = """
keep_days = "forever"

[[rules]]
metadata = { archive = "now" }
keep_days = 0
purge_days = 0

[[rules]]
metadata = { archive = "keep" }
keep_days = 0
"""
NOW = {"archive": "now"}

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archive")


@pytest.fixture(scope="module")
def settings(folder: Path) -> dict[str, str]:
    (folder / "retention.toml").write_text(POLICY)
    return {
        "PERDURE_ARCHIVE_URL": str(folder / "objects"),
        "PERDURE_RETENTION_FILE": str(folder / "retention.toml"),
        "PERDURE_ARCHIVE_INTERVAL_S": "3600",
        "PERDURE_ARCHIVE_LEASE_S": "3",
    }


@pytest.fixture(scope="module")
def system(start_module_system: Any, settings: dict[str, str]) -> Any:
    return start_module_system(names=("gateway", "agent_step", "scheduler", "indexer"), settings=settings)


@pytest.fixture
def perdure(system: Any, stack: Stack, settings: dict[str, str], folder: Path) -> Run:
    """Run the command line with ``--json``: (exit status, what it wrote, stderr)."""
    uri = stack.environment()["PERDURE_MONGODB_URI"].rpartition("/")[0] + f"/{system.db.name}"
    environment = {
        **os.environ,
        **stack.environment(),
        **settings,
        "PERDURE_MONGODB_URI": uri,
        "PERDURE_URL": system.services.gateway_url,
    }

    def run(*arguments: str, **more: str) -> tuple[int, Any, str]:
        command = [sys.executable, "-m", "perdure.cli", *arguments, "--json"]
        done = subprocess.run(command, env=environment | more, cwd=folder, capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr

    return run


def ended(system: Any, metadata: dict[str, Any]) -> str:
    """A thread whose run has ended and is in the index."""
    run = system.start("chain", {"n": 5}, metadata=metadata)
    (document,) = system.until_ended(run)
    assert document["status"] == "success"
    until_blocking(
        lambda: [one["status"] for one in found(system, run["thread_id"], "threads")] == ["success"],
        "the run's success in the index",
    )
    return str(run["thread_id"])


def found(system: Any, thread_id: str, scope: str = "states") -> list[Any]:
    params = {"thread_id": thread_id, "scope": scope, "limit": 100}
    return list(system.http.get("/search", params=params).raise_for_status().json()["items"])


def archive(perdure: Run, *thread_ids: str) -> None:
    status, done, err = perdure("archive", "run")
    assert status == 0, err
    rows = {row["thread_id"]: row["result"] for row in done["threads"]}
    assert {one: rows.get(one) for one in thread_ids} == dict.fromkeys(thread_ids, "archived")


def refused(answer: Any) -> str:
    assert answer.status_code == 409, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json()
    assert problem["type"] == "urn:perdure:problem:thread-archived"
    return str(problem["detail"])


def test_an_archived_thread_is_refused_found_and_comes_back_as_it_was(system: Any, perdure: Run) -> None:
    thread_id = ended(system, NOW)
    path = f"/threads/{thread_id}"
    pages = ("", "/state", "/history?limit=100", "/runs", "/storage")
    before = {page: system.http.get(path + page).raise_for_status() for page in pages}
    seqs = {item["seq"] for item in found(system, thread_id)}
    checkpoint = before["/state"].json()["checkpoint"]["checkpoint_id"]

    status, shown, _ = perdure("archive", "run", "--dry-run")
    assert (status, shown["dry_run"], shown["counts"]) == (0, True, {"would be archived": 1})
    assert system.http.get(path).status_code == 200, "a dry run changes nothing"
    archive(perdure, thread_id)

    for page in ("", "/state", "/history", "/runs", "/signals", f"/state/{checkpoint}"):
        assert f"POST {path}/restore" in refused(system.http.get(path + page))
    run = before["/runs"].json()[0]["run_id"]
    refused(system.http.get(f"{path}/runs/{run}"))
    refused(system.http.post(f"{path}/runs/{run}/retry"))
    refused(system.http.post(f"{path}/runs", json={"assistant_id": "chain", "input": {"n": 9}}))
    refused(system.http.post(f"{path}/runs", json={"assistant_id": "chain", "if_not_exists": "create"}))
    refused(system.http.post(f"{path}/signals/go", json={}))
    refused(system.http.post("/threads", json={"thread_id": thread_id, "if_exists": "do_nothing"}))
    schedule = {"assistant_id": "chain", "cron": "0 0 * * *", "thread_id": thread_id}
    refused(system.http.post("/schedules", json=schedule))

    until_blocking(
        lambda: any(item["event"] == "perdure.thread.archived" for item in found(system, thread_id)),
        "the archiving in the index",
    )
    until_blocking(
        lambda: all(item["archived"] is not None for item in found(system, thread_id)),
        "everything is marked as archived",
    )
    by_scope = {scope: found(system, thread_id, scope) for scope in ("states", "threads")}
    assert {item["seq"] for item in by_scope["states"]} == seqs
    places = {item["archived"]["object"] for items in by_scope.values() for item in items}
    assert [item["status"] for item in by_scope["threads"]] == ["success"]
    text = system.http.get("/search", params={"q": "odd", "thread_id": thread_id}).json()
    assert text["total"] > 0, "its past states are still found by their text"

    storage = system.http.get(f"{path}/storage").raise_for_status().json()
    was = before["/storage"].json()
    assert storage["total"] == was["total"]
    assert storage["archive"]["bytes"] > 0
    assert re.fullmatch(
        rf"tenant-default/[0-9a-f]{{2}}/{thread_id}@\d+-[0-9a-f-]{{36}}\.zst", storage["archive"]["object"]
    )
    assert places == {storage["archive"]["object"]}, "every hit says where its thread is"
    assert perdure("storage", thread_id)[1] == storage

    assert perdure("archive", "verify", thread_id)[1] == {"verified": 1, "damaged": []}
    status, back, err = perdure("archive", "restore", thread_id, "--by", "ann")
    assert (status, back) == (0, before[""].json()), err
    for page in pages[:-1]:
        assert system.http.get(path + page).content == before[page].content, page
    until_blocking(
        lambda: found(system, thread_id)[0]["event"] == "perdure.thread.restored", "the restoring in the index"
    )
    # The newest document is in an index of its own, which is refreshed by itself.
    until_blocking(
        lambda: all(item["archived"] is None for item in found(system, thread_id)), "nothing is marked as archived"
    )

    (again,) = system.until_ended(system.start("chain", {"n": 8}, thread_id))
    assert again["status"] == "success"
    assert system.values(thread_id)["step"] == 8
    log = system.values(thread_id)["log"]
    assert log == [f"{n} {'odd' if n % 2 else 'even'}" for n in range(1, 9)]
    system.assert_linear([thread_id])


def test_a_legal_hold_keeps_a_thread_here_and_in_the_archive(system: Any, perdure: Run) -> None:
    archive(perdure)  # what other tests left, so that nothing else is due
    thread_id, younger = ended(system, NOW), ended(system, {"archive": "keep"})
    assert perdure("archive", "hold", thread_id, "--reason", "case 7", "--by", "ann")[0] == 0
    _, shown, _ = perdure("archive", "run", "--limit", "1")
    rows = {row["thread_id"]: row["result"] for row in shown["threads"]}
    assert rows[thread_id] == "kept: it is under legal hold: case 7 (ann)"
    assert rows[younger] == "archived", "what is kept does not count"
    held = system.http.get(f"/threads/{thread_id}/storage").json()["hold"]
    assert (held["by"], held["reason"]) == ("ann", "case 7")
    assert perdure("archive", "release", thread_id)[0] == 0
    archive(perdure, thread_id)

    system.http.put(f"/threads/{thread_id}/hold", json={"by": "ann", "reason": "case 8"}).raise_for_status()
    _, shown, _ = perdure("archive", "purge", "--yes")
    rows = {row["thread_id"]: row["result"] for row in shown["threads"]}
    assert rows[thread_id] == "kept: it is under legal hold: case 8 (ann)"
    assert len(found(system, thread_id)) > 0

    assert perdure("archive", "release", thread_id)[0] == 0
    one = {"_id": thread_id}
    system.db.threads.update_one(one, {"$set": {"archive.state": "purging"}})
    late = system.http.put(f"/threads/{thread_id}/hold", json={"by": "ann", "reason": "case 9"})
    assert (late.status_code, "is being purged" in late.json()["detail"]) == (404, True)
    assert "perdure archive purge --yes" in refused(system.http.get(f"/threads/{thread_id}"))
    asked = system.http.post(f"/threads/{thread_id}/restore")
    assert (asked.status_code, "perdure archive purge --yes" in asked.json()["detail"]) == (409, True)
    system.db.threads.update_one(one, {"$set": {"archive.state": "archived"}})

    wrong = system.http.put(f"/threads/{thread_id}/hold", json={"by": "ann"})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/reason")
    assert system.http.put("/threads/none/hold", json={"by": "a", "reason": "b"}).status_code == 404


def test_a_purge_removes_everything_only_when_asked(system: Any, perdure: Run, folder: Path) -> None:
    doomed, kept = ended(system, NOW), ended(system, {"archive": "keep"})
    archive(perdure, doomed, kept)
    for thread_id in (doomed, kept):
        until_blocking(
            lambda one=thread_id: any(item["event"] == "perdure.thread.archived" for item in found(system, one)),
            f"the archiving of {thread_id} in the index",
        )
    status, shown, err = perdure("archive", "purge")
    rows = {row["thread_id"]: row["result"] for row in shown["threads"]}
    assert (status, rows[doomed], kept in rows) == (0, "would be purged", False), err
    assert "--yes" in err
    assert len(list((folder / "objects").rglob(f"{doomed}@*"))) == 1

    status, shown, err = perdure("archive", "purge", "--yes")
    assert status == 0, err
    assert {row["thread_id"]: row["result"] for row in shown["threads"]}[doomed] == "purged"
    assert list((folder / "objects").rglob(f"{doomed}@*")) == []
    assert system.http.get(f"/threads/{doomed}").status_code == 404
    until_blocking(
        lambda: found(system, doomed) == found(system, doomed, "threads") == [], "the purged thread leaves the index"
    )
    for collection in system.db.list_collection_names():
        if collection != "dead_letters":
            assert doomed not in repr(list(system.db[collection].find())), collection
    assert len(found(system, kept)) > 0
    assert len(list((folder / "objects").rglob(f"{kept}@*"))) == 1


def test_a_damaged_object_is_found_and_stays_in_the_archive(system: Any, perdure: Run, folder: Path) -> None:
    thread_id = ended(system, {"archive": "keep"})
    archive(perdure, thread_id)
    (path,) = (folder / "objects").rglob(f"{thread_id}@*")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    status, shown, err = perdure("archive", "verify", thread_id)
    assert (status, len(shown["damaged"])) == (1, 1)
    assert "it was cut off" in shown["damaged"][0]["result"]
    assert "1 of 1 archive objects" in json.loads(err)["detail"]
    status, _, err = perdure("archive", "restore", thread_id, "--timeout", "2")
    assert (status, "is not back after 2 s" in err) == (1, True), err
    until_blocking(
        lambda: "it was cut off" in refused(system.http.get(f"/threads/{thread_id}")),
        "the gateway says that the object is damaged",
    )
    path.write_bytes(whole)
    until_blocking(lambda: system.http.get(f"/threads/{thread_id}").status_code == 200, "the thread is read again", 90)


def test_what_is_not_archived_cannot_be_restored(system: Any, perdure: Run) -> None:
    thread_id = ended(system, {})
    status, _, err = perdure("archive", "restore", thread_id)
    assert (status, json.loads(err)["type"]) == (1, "urn:perdure:problem:thread-not-archived")
    status, _, err = perdure("archive", "verify", thread_id)
    assert (status, json.loads(err)["detail"]) == (1, f"not archived: {thread_id}")


def test_without_a_store_the_command_says_what_to_set(perdure: Run) -> None:
    status, _, err = perdure("archive", "run", PERDURE_ARCHIVE_URL="")
    assert (status, "PERDURE_ARCHIVE_URL is not set" in json.loads(err)["detail"]) == (1, True)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("PERDURE_ARCHIVE_OPTIONS", "{bad", "PERDURE_ARCHIVE_OPTIONS: it must be JSON"),
        ("PERDURE_ARCHIVE_LEASE_S", "soon", "PERDURE_ARCHIVE_LEASE_S: Input should be a valid number"),
        ("PERDURE_MONGODB_URI", "mongodb://127.0.0.1:1/x", "Check PERDURE_MONGODB_URI and the server"),
        ("PERDURE_MONGODB_URI", "http://x", "URI must begin with 'mongodb://'"),
    ],
)
def test_what_is_set_wrongly_is_said_in_one_message(perdure: Run, variable: str, value: str, says: str) -> None:
    status, _, err = perdure("archive", "verify", **{variable: value})
    assert (status, says in json.loads(err)["detail"]) == (1, True), err
