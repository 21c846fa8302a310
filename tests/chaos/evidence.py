"""What the stores say, read with plain clients: MongoDB, Kafka from the beginning, OpenSearch, the effects log, the driver's log.

Contract: :class:`Evidence` is data; reading it changes nothing. None of the services' own code is used, but for the names of
collections and topics, so that a mistake in it cannot hide itself. Encrypted values are opened by the one decoder that there is.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from bson.binary import Binary
from pymongo import MongoClient
from tests.chaos.access import Access
from tests.chaos.driver import read_log
from tests.chaos.faults import read_topic
from tests.chaos.readers import Streamed
from tests.chaos.sampler import Samples

from perdure.chassis.at_rest import REGISTRY, SUBTYPE

Found = dict[str, Any]
EVENTS = "perdure.events"
STATES, THREADS = "perdure-states", "perdure-threads"
FENCE, NOTE = "f", "n"
UNDER_WAY = frozenset({"started", "updated"})
"""Entries that do not end their run."""
PAGE = 5_000


@dataclass(slots=True)
class Evidence:
    """Everything that the promises are held against."""

    history: dict[str, list[Found]]
    """The notebook's entries with a ``seq``, by thread, in their order; fences included."""
    notes: dict[str, list[Found]]
    """The notebook's notes, by thread."""
    runs: dict[str, Found]
    threads: dict[str, Found]
    workers: dict[str, Found]
    waits: dict[str, Found]
    signals: dict[str, Found]
    effects: dict[str, Found]
    """The effect ledger."""
    events: dict[str, list[str]]
    """Ids of the records of ``perdure.events``, by key (the thread), in their order, repeats included."""
    states: list[tuple[str, str]]
    """Of the states index: document id and thread."""
    newest: list[tuple[str, Found]]
    """Of the threads index: document id and document."""
    world: list[Found]
    """The effects log."""
    driver: list[Found]
    """What was acknowledged."""
    logs: dict[str, list[str] | None] = field(default_factory=dict)
    """The final ``log`` of a thread's state, as the API shows it; ``None`` when it has none."""
    deliveries: dict[str, Found] = field(default_factory=dict)
    """The notices of the subscription to everything."""
    hooks: list[Found] = field(default_factory=list)
    """The webhooks that arrived in the world, repeats included."""
    samples: Samples = field(default_factory=Samples)
    """What was seen while the run went on."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    dead_letters: dict[str, Found] = field(default_factory=dict)
    poisoned: list[str] = field(default_factory=list)
    """Ids of the dead letters that must be there: of the records that nobody can handle."""
    streams: dict[str, Streamed] = field(default_factory=dict)
    """What the readers of streams were told, by thread."""
    verified: Found | None = None
    """What ``perdure index verify --full`` reports; ``None``: it failed. The one thing here that Perdure itself says."""

    def acknowledged(self, what: str) -> list[Found]:
        """Entries of the driver's log: ``start``, ``signal``, ``answer``."""
        return [one for one in self.driver if one["what"] == what]


def by_thread(documents: dict[str, Found]) -> dict[str, list[Found]]:
    """Runs, waits or signals, by their thread."""
    found: dict[str, list[Found]] = defaultdict(list)
    for one in documents.values():
        found[one["thread_id"]].append(one)
    return found


def checkpoints_of(entries: list[Found]) -> list[Found]:
    """Of a thread's history, the checkpoints."""
    return [one for one in entries if one["kind"] == "c"]


def ends_of(entries: list[Found]) -> list[Found]:
    """Of a thread's history, what ends its runs."""
    return [one for one in entries if one["kind"] == "e" and one["event"] not in UNDER_WAY]


def entry_id(entry: Found) -> str:
    """The id of an entry's event and of its document in the index."""
    if entry["kind"] == NOTE:
        return f"{entry['thread']}:{entry['after']}n{entry['note']}"
    return f"{entry['thread']}:{entry['seq']}"


@contextlib.contextmanager
def database(uri: str) -> Iterator[Any]:
    """A plain client's view of the database that the URI names."""
    options: dict[str, Any] = {"tz_aware": True, "serverSelectionTimeoutMS": 30_000, "type_registry": REGISTRY}
    with MongoClient(uri, **options) as client:
        yield client.get_default_database()


def stored_values(uri: str) -> dict[str, int]:
    """How many values of the database are encrypted and how many are not, of those that would be: checkpoints and inputs."""
    with MongoClient[Found](uri, serverSelectionTimeoutMS=30_000) as client:
        db = client.get_default_database()
        kept = [one["body"] for one in db.notebook.find({"body": {"$exists": True}}, {"body": 1})]
        kept += [one["payload"] for one in db.runs.find({"payload": {"$exists": True}}, {"payload": 1})]
    encrypted = sum(isinstance(one, Binary) and one.subtype == SUBTYPE for one in kept)
    return {"encrypted values": encrypted, "plain values": len(kept) - encrypted}


def history_of(db: Any) -> tuple[dict[str, list[Found]], dict[str, list[Found]]]:
    """The notebook's entries and notes, by thread."""
    history: dict[str, list[Found]] = defaultdict(list)
    notes: dict[str, list[Found]] = defaultdict(list)
    for entry in db.notebook.find({"kind": {"$in": ["c", "e", FENCE, NOTE]}}, {"body": 0}):
        (notes if entry["kind"] == NOTE else history)[entry["thread"]].append(entry)
    for entries in history.values():
        entries.sort(key=lambda one: one.get("seq", 0))
    return dict(history), dict(notes)


def gather(access: Access, gateway: str | None, driver_log: Path, world_log: Path) -> Evidence:
    """Read everything."""
    with database(access.mongodb_uri) as db:
        history, notes = history_of(db)
        kept = {
            name: {one["_id"]: one for one in db[name].find({}, {"payload": 0})}
            for name in ("runs", "threads", "workers", "waits", "signals", "effects", "deliveries", "dead_letters")
        }
        now = db.command("hello", codec_options=db.codec_options)["localTime"]
    events: dict[str, list[str]] = defaultdict(list)
    for record in read_topic(access.kafka, EVENTS):
        events[record.key().decode(errors="replace")].append(dict(record.headers())["ce_id"].decode())
    arrived = read_log(world_log)
    evidence = Evidence(
        history=history,
        notes=notes,
        events=dict(events),
        states=[(one["_id"], one["_source"]["thread_id"]) for one in _documents(access, STATES, ["thread_id"])],
        newest=[(one["_id"], one["_source"]) for one in _documents(access, THREADS, ["thread_id", "seq", "note"])],
        world=[one for one in arrived if "hook" not in one],
        hooks=[one for one in arrived if "hook" in one],
        driver=read_log(driver_log),
        now=now,
        **kept,
    )
    if gateway:
        evidence.logs = _final_logs(
            access.gateway(gateway), sorted({one["thread"] for one in evidence.acknowledged("start")})
        )
    return evidence


def _documents(access: Access, index: str, fields: list[str]) -> Iterator[Found]:
    with access.opensearch() as http:
        http.post(f"/{index}/_refresh").raise_for_status()
        body = {"size": PAGE, "_source": fields, "sort": ["_doc"]}
        answer = http.post(f"/{index}/_search?scroll=2m", json=body).raise_for_status().json()
        while hits := answer["hits"]["hits"]:
            yield from hits
            again = {"scroll": "2m", "scroll_id": answer["_scroll_id"]}
            answer = http.post("/_search/scroll", json=again).raise_for_status().json()
        http.request("DELETE", "/_search/scroll", json={"scroll_id": answer["_scroll_id"]})


def _final_logs(gateway: httpx.Client, threads: list[str]) -> dict[str, list[str] | None]:
    found: dict[str, list[str] | None] = {}
    with gateway as http:
        for thread in threads:
            answer = http.get(f"/threads/{thread}/state")
            found[thread] = (answer.json().get("values") or {}).get("log") if answer.status_code == 200 else None
    return found
