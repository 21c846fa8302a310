"""OpenSearch with its security plugin: every service's work within the role that ``perdure grants print`` gives it, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.integration.indexer_stage import history
from tests.support.polling import until
from tests.support.secured_opensearch import SecuredOpenSearch, password_of, secured_opensearch

from perdure.chassis.access import OpenSearchAccess
from perdure.chassis.errors import UnreachableError
from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.chassis.opensearch_circuit import CircuitOpenSearch
from perdure.cli.grants import opensearch as printed
from perdure.gateway.search.query import ask
from perdure.indexer import indices
from perdure.indexer.bulk import newest_item, state_item
from perdure.indexer.domain import document_of
from perdure.indexer.forgetting import forget, newest_of
from perdure.indexer.redaction import Redaction
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.writer import Writer
from perdure.schemas.grants import SERVICES
from perdure.schemas.index import FIRST_STATES_INDEX, STATES, THREADS

pytestmark = pytest.mark.timeout(300)

BODIES: dict[str, dict[str, object]] = {
    "/_doc": {"thread_id": "t"},
    "/_cluster/settings": {"transient": {"cluster.max_shards_per_node": 900}},
    "/_settings": {"index.blocks.write": True},
    "/internalusers/": {"password": password_of("another")},
}
USERS = [name for name, grants in SERVICES.items() if grants.indices]
SECOND = indices.successor(FIRST_STATES_INDEX)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredOpenSearch]:
    with secured_opensearch(tmp_path_factory.mktemp("secured")) as running:
        running.run(printed(dict(SERVICES)))
        for name in (*USERS, "stranger"):
            running.add(name)
        yield running


@asynccontextmanager
async def connected(access: OpenSearchAccess) -> AsyncIterator[OpenSearch]:
    client = OpenSearch(access)
    try:
        yield client
    finally:
        await client.close()


async def write(client: OpenSearch, thread_id: str, **settings: object) -> None:
    """Index a thread as the indexer does."""
    writer = Writer(client, IndexerSettings(index_rollover_check_s=1e-9, **settings))  # type: ignore[arg-type]
    await writer.open()
    documents = [document_of(event, Redaction(), 1000) for event in history(thread_id, "default", 3)]
    refused = await writer.write([*map(state_item, documents), newest_item(documents[-1])])
    assert refused == []


async def count(client: OpenSearch, index: str, thread_id: str) -> int:
    body = {"query": {"term": {"thread_id": thread_id}}, "size": 100}
    return len((await ask(client, index, body))["hits"]["hits"])


async def test_the_index_lives_within_the_roles(node: SecuredOpenSearch) -> None:
    """The indexer makes indices and begins a new one, the gateway searches, the archive removes, the operator rebuilds."""
    async with connected(node.access("indexer")) as indexer:
        await write(indexer, "first")
        await indexer.request("POST", f"/{STATES}/_refresh")
        await write(indexer, "second", index_rollover_docs=1)
        layout = await indices.read_layout(indexer)
        assert layout.states == SECOND
        assert [one.name for one in layout.older] == [FIRST_STATES_INDEX]
        assert await indices.present(indexer, {FIRST_STATES_INDEX: ["default:first:1", "no"]}) <= {"default:first:1"}
    async with connected(node.access("gateway")) as gateway:

        async def both() -> list[int]:
            return [await count(gateway, STATES, "first"), await count(gateway, THREADS, "second")]

        await until(both, "the gateway finds what was indexed", holds=lambda found: found == [5, 1])
        circuit = CircuitOpenSearch(node.access("gateway"))
        assert await circuit.request("GET", "/")
        await circuit.close()
    async with connected(node.access("archive")) as archive:
        assert await newest_of(archive, "default", "first") is not None
        assert await forget(archive, "default", "first") == 6, "in an index that takes no writes any more, too"
        assert await newest_of(archive, "default", "first") is None
    async with connected(node.access("operator")) as operator:
        found = await operator.request("GET", f"/{STATES}-*,{THREADS}-*/_alias")
        assert SECOND in found
        await operator.request("PUT", f"/{STATES}-left-000001", {"settings": {"index.refresh_interval": "-1"}})
        await operator.request("DELETE", f"/{STATES}-left-000001", params={"ignore_unavailable": "true"})
        stats = await operator.request("GET", f"/{STATES},{THREADS}/_stats/store")
        assert stats["_all"]["primaries"]["store"]["size_in_bytes"] > 0


async def test_a_client_certificate_says_who_asks(node: SecuredOpenSearch) -> None:
    async with connected(node.by_certificate("gateway")) as gateway:
        assert (await gateway.request("GET", "/_plugins/_security/authinfo"))["user_name"] == "gateway"
        await gateway.request("POST", f"/{STATES}/_search", {"size": 0}, {"ignore_unavailable": "true"})
    async with connected(node.by_certificate("nobody-knows")) as unknown:
        with pytest.raises(OpenSearchRefusedError, match=r"403 security_exception.*no permissions"):
            await unknown.request("POST", f"/{STATES}/_search", {"size": 0})


@pytest.mark.parametrize(
    ("user", "method", "path"),
    [
        ("gateway", "PUT", "/perdure-new"),
        ("gateway", "POST", f"/{THREADS}/_doc/1"),
        ("gateway", "DELETE", f"/{SECOND}"),
        ("gateway", "PUT", f"/{SECOND}/_settings"),
        ("gateway", "POST", "/other/_search"),
        ("indexer", "DELETE", f"/{SECOND}"),
        ("indexer", "PUT", "/other"),
        ("indexer", "GET", "/_plugins/_security/api/internalusers"),
        ("indexer", "PUT", "/_cluster/settings"),
        ("archive", "DELETE", f"/{SECOND}"),
        ("archive", "POST", f"/{THREADS}/_doc/1"),
        ("archive", "PUT", "/perdure-new"),
        ("operator", "DELETE", "/.opendistro_security"),
        ("operator", "PUT", "/_plugins/_security/api/internalusers/another"),
        ("stranger", "POST", f"/{STATES}/_search"),
        ("stranger", "GET", "/"),
    ],
)
async def test_nothing_beyond_a_role_is_permitted(node: SecuredOpenSearch, user: str, method: str, path: str) -> None:
    body = next((body for part, body in BODIES.items() if part in path), None)
    async with connected(node.access(user)) as client:
        with pytest.raises(OpenSearchRefusedError) as refused:
            await client.request(method, path, body)
    assert refused.value.status == 403, refused.value


async def test_a_wrong_password_is_told(node: SecuredOpenSearch) -> None:
    wrong = f"https://gateway:{password_of('another')}@{node.address}"
    async with connected(OpenSearchAccess(wrong, node.authority.ca_file)) as client:
        with pytest.raises(OpenSearchRefusedError, match=r"401.*user or password.*PERDURE_OPENSEARCH_URL") as refused:
            await client.request("GET", "/")
    assert password_of("another") not in str(refused.value)


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_an_unknown_authority_and_no_encryption_are_told(node: SecuredOpenSearch, scheme: str) -> None:
    said = {"https": "certificate verify failed", "http": "closed|disconnected|reset|invalid"}[scheme]
    async with connected(OpenSearchAccess(node.url("gateway").replace("https", scheme))) as client:
        with pytest.raises(UnreachableError, match=f"(?i){said}"):
            await client.request("GET", "/")
