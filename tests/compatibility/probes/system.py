"""Assistants as far as they are there, health, information, the page of the description."""

from __future__ import annotations

from tests.compatibility.probe import ACCEPTED, claim, probe
from tests.compatibility.stage import Stage, refusal

ASSISTANT = "assistant_id graph_id config context created_at updated_at metadata version name"
SEARCH, READ = "POST /assistants/search", "GET /assistants/{assistant_id}"
GRAPH = "GET /assistants/{assistant_id}/graph"
SCHEMAS = "GET /assistants/{assistant_id}/schemas"


async def assistants(stage: Stage) -> None:
    found = await stage.sdk.assistants.search(graph_id="walk")
    (assistant,) = found
    assert (assistant["graph_id"], assistant["name"], assistant["version"]) == ("walk", "walk", 1)
    assert assistant["config"] == {}
    assert assistant["context"] == {}
    assert assistant["metadata"] == {"created_by": "system"}
    assert assistant["created_at"]
    assert assistant["updated_at"]
    assert await stage.sdk.assistants.get(assistant["assistant_id"]) == assistant
    run = await stage.sdk.runs.create(await stage.thread(), assistant["assistant_id"], input={"n": 1})
    assert (await stage.ended(run))["status"] == "success"
    async with refusal(404):
        await stage.sdk.assistants.get("00000000-0000-4000-8000-000000000000")


async def no_assistants_of_an_unknown_graph(stage: Stage) -> None:
    assert await stage.sdk.assistants.search(graph_id="nothing") == []


async def assistants_that_match(stage: Stage) -> None:
    everything = await stage.sdk.assistants.search(limit=100)
    assert {one["graph_id"] for one in everything} == {"walk", "ask", "fail", "nested", "fan", "talk"}
    assert [one["graph_id"] for one in await stage.sdk.assistants.search(name="nest")] == ["nested"]
    by_metadata = await stage.sdk.assistants.search(metadata={"created_by": "system"}, limit=100)
    assert len(by_metadata) == len(everything)
    assert await stage.sdk.assistants.search(metadata={"created_by": "nobody"}) == []
    assert len(await stage.sdk.assistants.search(limit=2)) == 2
    assert len(await stage.sdk.assistants.search(limit=100, offset=4)) == 2


async def assistants_unsorted(stage: Stage) -> None:
    sent = {"sort_by": "name", "sort_order": "asc", "select": ["name"], "limit": 100}
    answer = await stage.http.post("/assistants/search", json=sent)
    other = await stage.http.post("/assistants/search", json={**sent, "sort_order": "desc"})
    assert answer.json() == other.json()
    assert set(answer.json()[0]) > {"name"}


async def schemas(stage: Stage) -> None:
    (assistant,) = await stage.sdk.assistants.search(graph_id="walk")
    found = await stage.sdk.assistants.get_schemas(assistant["assistant_id"])
    assert found["graph_id"] == "walk"
    for name in ("input_schema", "output_schema"):
        assert {"n", "log"} <= found[name]["properties"].keys()  # type: ignore[literal-required]


async def drawings(stage: Stage) -> None:
    (assistant,) = await stage.sdk.assistants.search(graph_id="nested")
    closed = await stage.sdk.assistants.get_graph(assistant["assistant_id"])
    names = {one["id"] for one in closed["nodes"]}
    assert {"__start__", "__end__"} < names
    assert all({one["source"], one["target"]} <= names for one in closed["edges"])
    for xray in (True, 1):
        opened = await stage.sdk.assistants.get_graph(assistant["assistant_id"], xray=xray)
        assert any(":" in one["id"] for one in opened["nodes"]), "the subgraph's own nodes are drawn"
        assert not any(":" in name for name in names)


async def alive(stage: Stage) -> None:
    answer = await stage.http.get("/ok")
    assert (answer.status_code, answer.json()["ok"]) == (200, True)


async def information(stage: Stage) -> None:
    told = (await stage.http.get("/info")).raise_for_status().json()
    assert told["version"]
    assert told["flags"]["assistants"] is True
    assert told["flags"]["crons"] is True


async def metrics(stage: Stage) -> None:
    answer = await stage.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "# TYPE" in answer.text


async def description(stage: Stage) -> None:
    answer = await stage.http.get("/docs")
    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (200, "text/html")


PROBES = (
    probe(assistants, claim(SEARCH, body="graph_id", answer=ASSISTANT), claim(READ, answer=ASSISTANT)),
    probe(
        no_assistants_of_an_unknown_graph,
        differs="A search for the assistants of a graph that nobody serves finds none; the Agent Server answers 404.",
    ),
    probe(drawings, claim(GRAPH, path="assistant_id", query="xray")),
    probe(assistants_that_match, claim(SEARCH, body="metadata name limit offset")),
    probe(
        assistants_unsorted,
        claim(SEARCH, partly=dict.fromkeys(("body.sort_by", "body.sort_order", "body.select"), ACCEPTED)),
    ),
    probe(schemas, claim(SCHEMAS, answer="graph_id input_schema output_schema")),
    probe(alive, claim("GET /ok", answer="ok")),
    probe(information, claim("GET /info", answer="version flags")),
    probe(metrics, claim("GET /metrics")),
    probe(description, claim("GET /docs")),
)
