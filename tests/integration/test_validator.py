"""The validator on real servers: HTTP that misbehaves, MongoDB, OpenSearch, fetchers. Unknown never passes."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson import Decimal128, ObjectId
from tests.integration.validator_stage import LIMIT, World, http_reader, opened_reader, validator_world  # noqa: F401

from perdure.chassis import mongo
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.signatures import Signatures
from perdure.local.stack import Stack
from perdure.schemas.validation import (
    FetcherSource,
    Finding,
    HttpSource,
    MongoSource,
    NewerThan,
    OpenSearchSource,
    Premise,
    Range,
    Relative,
    ValidatePremises,
    Verdict,
    VerdictOutcome,
)
from perdure.sdk.validation import eq
from perdure.validator.__main__ import readers
from perdure.validator.connections import connections
from perdure.validator.fetchers import load_fetchers
from perdure.validator.handlers import Validator
from perdure.validator.reading import Reader
from perdure.validator.settings import ValidatorSettings
from perdure.validator.sources.fetcher import FetcherReader
from perdure.validator.sources.http import TARGETS_SETTING
from perdure.validator.sources.mongodb import MongoReader
from perdure.validator.sources.opensearch import OpenSearchReader

P, S, U, A = VerdictOutcome.PROCEED, VerdictOutcome.STALE, VerdictOutcome.UNKNOWN, VerdictOutcome.ASK


async def verdict(reader: Reader, *premises: Premise, limit_s: float = 20) -> Verdict:
    settings = ValidatorSettings()
    message = ValidatePremises(
        tenant="t",
        thread_id="thread",
        run_id="run",
        wait_id=f"thread:{uuid.uuid4().hex}",
        premises=premises,
        action_digest="d",
        verdict_expires_s=60,
    )
    return await Validator(settings, reader, None, Signatures([])).check(message, limit_s)  # type: ignore[arg-type]


async def finding(reader: Reader, source: Any, limit_s: float = 20, **fields: Any) -> Finding:
    given = await verdict(reader, Premise(name="p", source=source, **fields), limit_s=limit_s)
    (found,) = given.findings
    assert given.outcome is found.outcome
    return found


async def test_a_fresh_price_proceeds_and_another_is_stale(world: World, opened: Callable[..., Reader]) -> None:
    reader = opened(http=http_reader())
    source = HttpSource(url=f"{world.url}/price")
    assert (await finding(reader, source, pointer="/price", believed=10)).outcome is P
    stale = await finding(reader, source, pointer="/price", believed=12, rule=Relative(tolerance=0.01))
    assert (stale.outcome, stale.fresh, stale.drift) == (S, 10, -2.0)
    assert (await finding(reader, source, pointer="/at", rule=NewerThan(max_age_s=5))).outcome is P


@pytest.mark.parametrize(
    ("path", "reason", "tries"),
    [
        ("fails", "answered 500", 2),
        ("absent", "answered 404", 1),
        ("moved", "redirects are not followed", 1),
        ("text", "not JSON", 2),
        ("nan", "not JSON", 2),
        ("empty", "not JSON", 2),
        ("huge", "longer than", 1),
        ("bomb", "longer than", 1),
        ("endless", "longer than", 1),
        ("liar", "ended before it was complete", 2),
        ("held", "no answer within 0.2 s", 2),
    ],
)
async def test_a_server_that_misbehaves_is_unknown(
    world: World, opened: Callable[..., Reader], path: str, reason: str, tries: int
) -> None:
    reader = opened(http=http_reader())
    found = await finding(
        reader, HttpSource(url=f"{world.url}/{path}"), pointer="/price", believed=10, attempts=2, timeout_s=0.2
    )
    assert (found.holds, found.outcome, found.fresh) == (None, U, None)
    assert reason in found.reason
    assert found.attempts == tries == len(world.seen)
    rule = Range(low=0)
    asks = await finding(
        reader, HttpSource(url=f"{world.url}/{path}"), rule=rule, attempts=1, timeout_s=0.2, on_unknown="ask"
    )
    assert asks.outcome is A


async def test_nobody_there_is_unknown(opened: Callable[..., Reader]) -> None:
    reader = opened(http=http_reader())
    found = await finding(reader, HttpSource(url="http://127.0.0.1:1/"), attempts=2)
    assert found.outcome is U
    assert "no connection" in found.reason
    assert "tried 2 times" in found.reason


async def test_a_server_that_recovers_is_read(world: World, opened: Callable[..., Reader]) -> None:
    reader = opened(http=http_reader())
    found = await finding(reader, HttpSource(url=f"{world.url}/flaky"), pointer="/price", believed=10, attempts=5)
    assert (found.outcome, found.attempts) == (P, 3)


async def test_secrets_of_headers(world: World, opened: Callable[..., Reader]) -> None:
    environment = {
        "PERDURE_SOURCE_KEY": "s3cret",
        "PERDURE_SOURCE_KEY_HOSTS": "127.0.0.1",
        "PERDURE_MONGODB_URI": "hidden",
        "PERDURE_SOURCE_BAD": "a\r\nb: c",
        "PERDURE_SOURCE_BAD_HOSTS": "127.0.0.1",
        "PERDURE_SOURCE_UNBOUND": "s3cret",
        "PERDURE_SOURCE_OTHER": "s3cret",
        "PERDURE_SOURCE_OTHER_HOSTS": "quotes.example.com,*.example.org",
    }
    reader = opened(http=http_reader(environment=environment))

    async def sent(header: str) -> Finding:
        return await finding(
            reader,
            HttpSource(url=f"{world.url}/echo", headers={"X-Key": header}),
            pointer="/key",
            believed="Key s3cret!",
        )

    assert (await sent("Key ${PERDURE_SOURCE_KEY}!")).outcome is P
    for header, reason in {
        "${PERDURE_MONGODB_URI}": "only variables PERDURE_SOURCE_",
        "${PERDURE_SOURCE_NONE}": "does not have",
        "${HOME}": "only variables PERDURE_SOURCE_",
        "${PERDURE_SOURCE_BAD}": "cannot be sent",
        "${}": "only variables PERDURE_SOURCE_",
        "${PERDURE_SOURCE_UNBOUND}": "PERDURE_SOURCE_UNBOUND_HOSTS=127.0.0.1",
        "${PERDURE_SOURCE_OTHER}": "not among PERDURE_SOURCE_OTHER_HOSTS",
        "${PERDURE_SOURCE_KEY_HOSTS}": "only variables PERDURE_SOURCE_",
    }.items():
        refused = await sent(header)
        assert refused.outcome is U
        assert reason in refused.reason
        assert "s3cret" not in refused.reason
        assert "hidden" not in refused.reason
        assert "b: c" not in refused.reason
    assert len(world.seen) == 1


async def test_only_listed_hosts_are_read(world: World, opened: Callable[..., Reader]) -> None:
    host = world.url.removeprefix("http://")
    for hosts, outcome in ([host], P), (["127.0.0.0/8"], P), (["example.com"], U), (["127.0.0.1:1"], U):
        reader = opened(http=http_reader(*hosts))
        found = await finding(reader, HttpSource(url=f"{world.url}/price"), pointer="/price", believed=10)
        assert found.outcome is outcome
    assert len(world.seen) == 2


async def test_private_addresses_are_read_only_where_they_are_listed(
    world: World, opened: Callable[..., Reader]
) -> None:
    port = world.url.rpartition(":")[2]
    reader = opened(http=http_reader(allowed=()))
    for url in (
        f"http://127.0.0.1:{port}/price",
        f"https://127.0.0.1:{port}/price",
        f"https://localhost:{port}/price",
        f"https://[::ffff:127.0.0.1]:{port}/price",
        f"https://\uff11\uff12\uff17.\uff10.\uff10.\uff11:{port}/price",
        f"http://127\u30020\u30020\u30021:{port}/price",
        "https://169.254.169.254/latest/meta-data",
    ):
        found = await finding(reader, HttpSource(url=url), pointer="/price", believed=10)
        assert found.outcome is U, url
        assert TARGETS_SETTING in found.reason, (url, found.reason)
        assert found.attempts == 1
    assert not world.seen


async def test_premises_on_one_source_are_judged_on_one_reading(world: World, opened: Callable[..., Reader]) -> None:
    reader = opened(http=http_reader())
    source = HttpSource(url=f"{world.url}/price")
    given = await verdict(
        reader,
        Premise(name="price", source=source, pointer="/price", believed=10),
        Premise(name="at", source=source, pointer="/at", rule=NewerThan(max_age_s=5)),
        Premise(name="gone", source=HttpSource(url=f"{world.url}/absent"), believed=1),
    )
    assert [one.outcome for one in given.findings] == [P, P, U]
    assert given.outcome is U
    assert len(world.seen) == 2


async def test_reads_of_one_source_are_capped_and_do_not_hold_up_another(
    world: World, opened: Callable[..., Reader]
) -> None:
    reader = opened(per_source=3, http=http_reader(), fetcher=FetcherReader({"quick": lambda: 1}, 1))
    slow = [
        asyncio.create_task(finding(reader, HttpSource(url=f"{world.url}/held?{n}"), pointer="/price", believed=10))
        for n in range(12)
    ]
    while world.now < 3:
        await asyncio.sleep(0.01)
    began = time.monotonic()
    assert (await finding(reader, FetcherSource(name="quick"), believed=1)).outcome is P
    assert time.monotonic() - began < 1
    late = await finding(reader, HttpSource(url=f"{world.url}/held?late"), believed=1, timeout_s=0.1, attempts=1)
    assert "no turn to read within 0.1 s" in late.reason
    world.release.set()
    assert Counter(one.outcome for one in await asyncio.gather(*slow)) == {P: 12}
    assert world.most == 3


async def test_the_whole_validation_has_a_deadline(world: World, opened: Callable[..., Reader]) -> None:
    reader = opened(http=http_reader())
    found = await finding(reader, HttpSource(url=f"{world.url}/held"), limit_s=0.2, believed=1)
    assert found.outcome is U
    assert "0.2 s that the whole validation has" in found.reason


async def test_fetchers(tmp_path: Path, opened: Callable[..., Reader]) -> None:
    (tmp_path / "fetchers_of_test.py").write_text(
        "import asyncio, decimal, datetime, threading, time\n"
        "def quote(symbol): return {'price': decimal.Decimal('10.5'), 'symbol': symbol,\n"
        "                           'at': datetime.datetime.now(datetime.timezone.utc)}\n"
        "async def stock(sku): await asyncio.sleep(0); return sku\n"
        "def broken(): raise RuntimeError('no world')\n"
        "def nan(): return float('nan')\n"
        "def strange(): return object()\n"
        "def naive(): return datetime.datetime(2026, 1, 1)\n"
        "held = threading.Event()\n"
        "def hangs(): held.wait(20)\n"
    )
    names = ("quote", "stock", "broken", "nan", "strange", "naive", "hangs")
    fetchers = ", ".join(f'"{name}": "./fetchers_of_test.py:{name}"' for name in names)
    (tmp_path / "langgraph.json").write_text(f'{{"perdure": {{"fetchers": {{{fetchers}}}}}}}')
    loaded = load_fetchers(tmp_path / "langgraph.json")
    reader = opened(fetcher=FetcherReader(loaded, 2))
    quote = FetcherSource(name="quote", arguments={"symbol": "ACME"})
    assert (await finding(reader, quote, pointer="/price", believed=10.5)).outcome is P
    assert (await finding(reader, quote, pointer="/symbol", believed="ACME")).outcome is P
    assert (await finding(reader, quote, pointer="/at", rule=NewerThan(max_age_s=5))).outcome is P
    assert (await finding(reader, FetcherSource(name="stock", arguments={"sku": 3}), believed=3)).outcome is P
    for name, reason in {
        "broken": "RuntimeError: no world",
        "nan": "not JSON",
        "strange": "object is not JSON",
        "naive": "no time zone",
        "none": "no fetcher 'none'",
        "hangs": "no answer within 0.2 s",
        "quote": "TypeError",
    }.items():
        found = await finding(reader, FetcherSource(name=name), rule=Range(low=0), attempts=1, timeout_s=0.2)
        assert (found.holds, found.outcome) == (None, U), name
        assert reason in found.reason
    loaded["hangs"].__globals__["held"].set()


def test_mistakes_in_the_project_are_named(tmp_path: Path) -> None:
    file = tmp_path / "langgraph.json"
    assert load_fetchers(file) == {}
    (tmp_path / "f.py").write_text("number = 7\n")
    for text, reason in {
        "[": "is not JSON",
        '{"perdure": []}': '"perdure" must be like',
        '{"perdure": {"fetchers": {"q": "f.py"}}}': "must have the form",
        '{"perdure": {"fetchers": {"q": "./f.py:nothing"}}}': "has no variable 'nothing'",
        '{"perdure": {"fetchers": {"q": "./f.py:number"}}}': "is a int, not a function",
    }.items():
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=reason):
            load_fetchers(file)
    file.write_text('{"graphs": {"g": "./none.py:g"}}')
    assert load_fetchers(file) == {}


def test_connections_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PERDURE_VALIDATOR_CONNECTIONS", '{"crm": "mongodb://u:pw@h/crm", "shop": "https://h:9200", "x": "redis://pw"}'
    )
    settings = ValidatorSettings()
    assert "pw" not in repr(settings)
    with pytest.raises(ConfigurationError, match="x must begin with") as caught:
        readers(settings)
    assert "pw" not in str(caught.value)
    named = {name: secret for name, secret in settings.validator_connections.items() if name != "x"}
    monkeypatch.delenv("PERDURE_VALIDATOR_CONNECTIONS")  # both would be merged
    mongodb, opensearch = connections(ValidatorSettings(validator_connections=named))
    assert {name: one.uri for name, one in mongodb.items()} == {"crm": "mongodb://u:pw@h/crm"}
    assert {name: one.url for name, one in opensearch.items()} == {"shop": "https://h:9200"}


def test_settings_of_premises_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, reason in (
        (
            "PERDURE_VALIDATOR_SOURCE_HOSTS",
            '["10.*"]',
            "PERDURE_VALIDATOR_SOURCE_HOSTS|PERDURE_VALIDATOR_ALLOWED_TARGETS",
        ),
        ("PERDURE_SOURCE_X_HOSTS", "10.*", "PERDURE_SOURCE_X_HOSTS"),
        ("PERDURE_VALIDATOR_SCRIPTED", '["shop"]', "no connection of PERDURE_VALIDATOR_CONNECTIONS"),
    ):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            with pytest.raises(ConfigurationError, match=reason):
                readers(ValidatorSettings())


async def test_mongodb(own_mongodb: Stack, opened: Callable[..., Reader]) -> None:
    uri = own_mongodb.environment()["PERDURE_MONGODB_URI"]
    client = mongo.connect(uri)
    orders = mongo.database(client, uri)["orders"]
    one, at = ObjectId(), datetime.now(UTC) - timedelta(seconds=30)
    await orders.insert_many(
        [
            {"_id": one, "status": "open", "at": at, "price": Decimal128(Decimal("9.99")), "raw": b"x"},
            {"_id": ObjectId(), "status": "done", "at": at - timedelta(days=1), "pad": "x" * LIMIT},
        ]
    )
    reader = opened(mongodb=MongoReader({"crm": uri}, LIMIT))

    async def found(filter: dict[str, Any], pointer: str = "", connection: str = "crm", **fields: Any) -> Finding:
        source = MongoSource(connection=connection, collection="orders", filter=filter, sort={"at": -1})
        return await finding(reader, source, pointer=pointer, **fields)

    by_id = {"_id": {"$oid": str(one)}}
    assert (await found(by_id, "/status", believed="open")).outcome is P
    assert (await found(by_id, "/_id", believed=str(one))).outcome is P
    assert (await found(by_id, "/price", believed=9.99)).outcome is P
    assert (await found(by_id, "/at", rule=NewerThan(max_age_s=60))).outcome is P
    assert (await found(by_id, "/at", rule=NewerThan(max_age_s=10))).outcome is S
    since = {"at": {"$gte": {"$date": (at - timedelta(seconds=1)).isoformat()}}}
    assert (await found(since, "/status", believed="open")).outcome is P
    assert (await found({}, "/status", believed="open")).outcome is P, "sorted: the newest"
    assert (await found({"status": "lost"}, believed=None)).outcome is P, "there is still none"
    assert (await found({"status": "lost"}, "/status", believed=None)).outcome is U
    assert (await found({"status": "done"}, "/status", believed="done")).outcome is U, "over the limit"
    assert "no MongoDB connection 'erp'" in (await found({}, connection="erp")).reason
    for refused in (
        {"$where": "sleep(1000) || true"},
        {"$expr": {"$function": {"body": "function() { return true }", "args": [], "lang": "js"}}},
        {"status": {"$not": {"$where": "true"}}},
        {"$and": [{"$expr": {"$eq": ["$status", "open"]}}]},
        {"$jsonSchema": {"required": ["status"]}},
    ):
        said = await found(refused, "/status", believed="open")
        assert (said.outcome, "premises compare fields only" in said.reason) == (U, True), said
    injected: Any = {"$ne": None}
    assert (await found({"status": injected}, "/status", believed="open")).outcome is P, "an operator out of a state"
    assert (await found({"status": eq(injected)}, believed=None)).outcome is P, (
        "eq() makes a value of it: there is none"
    )
    assert (await found({"status": eq("open")}, "/status", believed="open")).outcome is P
    listed = opened(mongodb=MongoReader({"crm": uri, "own": uri}, LIMIT, allowed={"crm": ["order*"]}, own=uri))
    source = MongoSource(connection="crm", collection="orders", filter=by_id)
    assert (await finding(listed, source, pointer="/status", believed="open")).outcome is P
    for connection, collection in ("crm", "threads"), ("own", "orders"):
        source = MongoSource(connection=connection, collection=collection, filter={})
        said = await finding(listed, source, believed=None)
        assert (said.outcome, "PERDURE_VALIDATOR_ALLOWED_COLLECTIONS" in said.reason) == (U, True)
    scripted = opened(mongodb=MongoReader({"crm": uri}, LIMIT, scripted=["crm"]))
    compares = MongoSource(connection="crm", collection="orders", filter={"$expr": {"$eq": ["$status", "open"]}})
    assert (await finding(scripted, compares, pointer="/status", believed="open")).outcome is P
    own_mongodb.stop_server("mongodb", kill=True)
    began = time.monotonic()
    gone = await found(by_id, "/status", believed="open", timeout_s=0.5, attempts=1)
    assert time.monotonic() - began < 3
    assert (gone.holds, gone.outcome) == (None, U)
    client.close()


async def test_opensearch(opensearch_url: str, opened: Callable[..., Reader]) -> None:
    index = f"test-validator-{uuid.uuid4().hex[:8]}"
    async with httpx.AsyncClient(base_url=opensearch_url, timeout=30) as http:
        await http.put(f"/{index}")
        await http.put(f"/{index}/_doc/1?refresh=true", json={"sku": 7, "stock": 3})
        reader = opened(opensearch=OpenSearchReader({"shop": opensearch_url, "gone": "http://127.0.0.1:1"}, LIMIT))

        async def found(pointer: str, connection: str = "shop", where: str = index, **fields: Any) -> Finding:
            query = {"query": {"term": {"sku": 7}}}
            return await finding(
                reader, OpenSearchSource(connection=connection, index=where, body=query), pointer=pointer, **fields
            )

        assert (await found("/hits/hits/0/_source/stock", rule=Range(low=1))).outcome is P
        assert (await found("/hits/total/value", believed=1)).outcome is P
        await http.put(f"/{index}/_doc/1?refresh=true", json={"sku": 7, "stock": 0})
        assert (await found("/hits/hits/0/_source/stock", rule=Range(low=1))).outcome is S
        for unknown in (
            await found("/hits/hits/1", believed=1),
            await found("", where="no-such-index", believed=1),
            await found("", where="../_cat", believed=1),
            await found("", connection="none", believed=1),
            await found("", connection="gone", believed=1, attempts=1, timeout_s=2),
        ):
            assert (unknown.holds, unknown.outcome) == (None, U)
        for body in (
            {"query": {"script": {"script": "true"}}},
            {"script_fields": {"x": {"script": {"source": "1"}}}},
            {"query": {"bool": {"filter": [{"terms": {"sku": {"index": "perdure-states", "id": "1", "path": "x"}}}]}}},
            {"query": {"more_like_this": {"like": [{"_index": "perdure-states", "_id": "1"}]}}},
        ):
            said = await finding(reader, OpenSearchSource(connection="shop", index=index, body=body), believed=1)
            assert (said.outcome, "PERDURE_VALIDATOR_SCRIPTED" in said.reason) == (U, True), said
        for other in ("perdure-states-000001", "*", "_all", f"{index},per*", ".kibana", "<perdure-{now/d}>", ""):
            said = await found("", where=other, believed=1)
            assert (said.outcome, "PERDURE_VALIDATOR_ALLOWED_COLLECTIONS" in said.reason) == (U, True), (other, said)
        listed = opened(opensearch=OpenSearchReader({"shop": opensearch_url}, LIMIT, allowed={"shop": ["test-vali*"]}))
        source = OpenSearchSource(connection="shop", index="test-vali*", body={"query": {"term": {"sku": 7}}})
        assert (await finding(listed, source, pointer="/timed_out", believed=False)).outcome is P
        for other in ("other", "test-*"):
            source = OpenSearchSource(connection="shop", index=other, body={})
            assert (await finding(listed, source, believed=1)).outcome is U
        await http.put(f"/{index}/_doc/2?refresh=true", json={"sku": 7, "pad": "x" * (2 * LIMIT)})
        long = await found("/hits/total/value", believed=2)
        assert (long.outcome, "longer than" in long.reason, long.attempts) == (U, True, 1)
        await http.delete(f"/{index}")
