"""What one tenant has, for the tests that another tenant reaches none of it: ``build``."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import bson
from tests.integration.conftest import LINKS, Waiting

from perdure.chassis.clock import now
from perdure.chassis.opensearch import OpenSearch
from perdure.indexer.bulk import newest_item, state_item
from perdure.indexer.domain import document_of, newest
from perdure.indexer.redaction import Redaction
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.writer import Writer
from perdure.registry.runs import assistant_id_of, new_id
from perdure.registry.waits import wait_documents
from perdure.schemas.events import CheckpointSaved, Event, InterruptInfo, StuckCode, ThreadStuck
from perdure.schemas.index import STATES, THREADS
from perdure.schemas.thread_ids import stored_id
from perdure.schemas.waits import Question, Wait, WaitKind

GRAPH: Final = "agent"
OWNER: Final = "alpha"
NAMED: Final = "order-4711"
"""The thread id that both tenants' clients choose."""
DAY: Final = timedelta(days=1)
SECRET: Final = "only-alpha-knows"
"""Stands in everything that the owner stores."""


@dataclass
class Owned:
    """Ids of what the owner has, by the names of the path parameters."""

    ids: dict[str, str] = field(default_factory=dict)

    def leaks(self, text: str) -> list[str]:
        """What of the owner's stands in an answer."""
        return [one for one in (SECRET, f"{OWNER}~", *self.ids.values()) if one in text]


async def build(gateway: Waiting) -> Owned:
    """Make one of everything for the owner, by the API where the API makes it."""

    async def post(path: str, **body: Any) -> dict[str, Any]:
        response = await gateway.http.post(path, json=body, headers={"Perdure-Tenant": OWNER})
        assert response.status_code in (200, 201, 202), response.text
        made: dict[str, Any] = response.json()
        return made

    marked = {"note": SECRET}
    await post("/threads", thread_id=NAMED, metadata=marked)
    run = await post(f"/threads/{NAMED}/runs", assistant_id=GRAPH, input=marked)
    signal = await post(f"/threads/{NAMED}/signals/paid", payload=marked)
    schedule = await post(
        "/schedules", assistant_id=GRAPH, cron="0 0 1 1 *", thread_id=NAMED, metadata=marked, overlap="queue"
    )
    cron = await post("/runs/crons", assistant_id=GRAPH, schedule="0 0 1 1 *", metadata=marked)
    batch = await post("/batches", assistant_id=GRAPH, items=[{"input": marked}], metadata=marked)
    target = {"channel": "webhook", "target": f"https://hooks.example.com/{SECRET}", "kinds": ["completed"]}
    subscription = await post("/subscriptions", scope="thread", scope_id=NAMED, description=SECRET, **target)
    delivery = await post(f"/subscriptions/{subscription['subscription_id']}/test")
    await gateway.database.deliveries.update_one(
        {"_id": delivery["delivery_id"]}, {"$set": {"state": "dead", "thread_id": stored_id(OWNER, NAMED)}}
    )
    key = await post("/keys", name=SECRET, scopes=["threads:read"])
    wait = await _question(gateway)
    letter = await _letter(gateway)
    return Owned(
        {
            "thread_id": NAMED,
            "run_id": run["run_id"],
            "checkpoint_id": str(uuid.uuid4()),
            "name": "paid",
            "signal_id": signal["signal_id"],
            "approval_id": wait["_id"],
            "letter_id": letter,
            "batch_id": batch["batch_id"],
            "subscription_id": subscription["subscription_id"],
            "delivery_id": delivery["delivery_id"],
            "schedule_id": schedule["schedule_id"],
            "cron_id": cron["cron_id"],
            "assistant_id": GRAPH,
            "key_id": key["key_id"],
            "ticket": uuid.uuid4().hex,
            "token": LINKS.url(wait_id=wait["_id"], tenant="beta", recipient="eve@example.com", expires_at=now() + DAY)
            .rpartition("/")[2],
        }
    )  # fmt: skip


async def _question(gateway: Waiting) -> dict[str, Any]:
    run = {
        "_id": new_id(),
        "tenant": OWNER,
        "thread_id": stored_id(OWNER, NAMED),
        "graph_id": GRAPH,
        "graph_version": "v1",
        "assistant_id": assistant_id_of(GRAPH),
        "metadata": {"note": SECRET},
    }
    asked = Question(question=f"May I? {SECRET}", answer_schema=None, details={}, assigned_to=None)
    value = Wait(kind=WaitKind.APPROVAL, question=asked, events=(), due_at=None).value()
    (document,) = wait_documents(run, [InterruptInfo(id=uuid.uuid4().hex, value=value)], ["asks"], now())
    await gateway.database.waits.insert_one(dict(document))
    return dict(document)


async def _letter(gateway: Waiting) -> str:
    letter = {
        "_id": "perdure.events:3:17", "tenant": OWNER, "topic": "perdure.events", "partition": 3, "offset": 17,
        "key": stored_id(OWNER, NAMED).encode(), "value": SECRET.encode(), "headers": [], "size": 7, "digest": "0" * 32,
        "reason": "rejected", "detail": SECRET, "consumer": "indexer", "died_at": now(), "type": "perdure.run.started",
        "thread_id": stored_id(OWNER, NAMED), "redriven_from": None, "earlier_redrives": 0, "state": "open", "redrives": 0,
    }  # fmt: skip
    await gateway.database.dead_letters.insert_one(letter)
    return str(letter["_id"])


def states() -> list[Event]:
    """What the index has of the owner's thread: one that waits at a node and got stuck there."""
    fields: dict[str, Any] = {
        "tenant": OWNER, "thread_id": stored_id(OWNER, NAMED), "run_id": f"{SECRET}-run", "graph_id": GRAPH,
        "assistant_id": GRAPH, "seq": 1, "epoch": 1, "occurred_at": now(), "metadata": {"note": SECRET},
    }  # fmt: skip
    saved = CheckpointSaved(**fields, checkpoint_id="c1", step=1, source="loop", nodes=("a",), next=("b",), text=SECRET)
    stuck = ThreadStuck(**fields, note=1, code=StuckCode.OVERDUE, reason=SECRET, next=("b",), since=now())
    return [saved, stuck]


async def index(client: OpenSearch, url: str) -> None:
    """Write what :func:`states` says as the indexer would."""
    writer = Writer(client, IndexerSettings(opensearch_url=url))
    await writer.open()
    documents = [document_of(event, Redaction(), 1000) for event in states()]
    items = [state_item(d) for d in documents] + [newest_item(d) for d in newest(documents).values()]
    assert await writer.write(items) == []
    await client.request("POST", f"/{STATES},{THREADS}/_refresh")


async def snapshot(gateway: Waiting) -> dict[str, dict[Any, bytes]]:
    """Every stored document of the owner, by collection and id."""
    found: dict[str, dict[Any, bytes]] = {}
    for name in await gateway.database.list_collection_names():
        documents = await gateway.database[name].find({}).to_list(None)
        found[name] = {str(one["_id"]): bson.encode(one) for one in documents if _is_owned(one)}
    return found


def _is_owned(document: dict[str, Any]) -> bool:
    return document.get("tenant") == OWNER or str(document["_id"]).startswith(f"{OWNER}~")
