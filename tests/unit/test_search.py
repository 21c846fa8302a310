"""Search: parameters, times, cursors and the query that is sent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.gateway.search import SearchProblem, answer_of, body_of, moment, parse

NOW = datetime(2026, 11, 23, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("now", "2026-11-23T15:30:00+00:00"),
        ("today", "2026-11-23T00:00:00+00:00"),
        ("yesterday", "2026-11-22T00:00:00+00:00"),
        ("now-2h", "2026-11-23T13:30:00+00:00"),
        ("90m", "2026-11-23T14:00:00+00:00"),
        ("now-1w", "2026-11-16T15:30:00+00:00"),
        ("2026-11-20", "2026-11-20T00:00:00+00:00"),
        ("2026-11-20T10:00", "2026-11-20T10:00:00+00:00"),
        ("2026-11-20T10:00:00+02:00", "2026-11-20T08:00:00+00:00"),
        ("2026-11-20T10:00:00 02:00", "2026-11-20T08:00:00+00:00"),
        ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00+00:00"),
    ],
)
def test_instants(value: str, expected: str) -> None:
    assert moment(value, NOW, "query:since").isoformat() == expected


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"sinse": "today"}, "query:sinse"),
        ({"metadata.": "x"}, "query:metadata."),
        ({"since": "tomorrow"}, "query:since"),
        ({"until": "now-999999w"}, "query:until"),
        ({"since": "today", "until": "yesterday"}, "query:until"),
        ({"status": "error,lost"}, "query:status"),
        ({"scope": "runs"}, "query:scope"),
        ({"limit": "0"}, "query:limit"),
        ({"limit": "many"}, "query:limit"),
        ({"limit": "²"}, "query:limit"),
        ({"q": "x" * 1001}, "query:q"),
        ({"node": ",".join("abc"[i % 3] + str(i) for i in range(101))}, "query:node"),
        ({"cursor": "no cursor"}, "query:cursor"),
        ({"cursor": "e30"}, "query:cursor"),
    ],
)
def test_wrong_parameters_are_named(query: dict[str, str], pointer: str) -> None:
    with pytest.raises(SearchProblem) as refused:
        parse(query, NOW)
    assert refused.value.pointer == pointer
    assert refused.value.detail


@given(st.dictionaries(st.text(), st.text()), st.text())
def test_nothing_but_a_search_problem_comes_of_any_parameters(query: dict[str, str], cursor: str) -> None:
    for given_ in (query, {"cursor": cursor}):
        try:
            parse(given_, NOW)
        except SearchProblem:
            pass


def test_the_sentence_of_the_mission() -> None:
    query = {"node": "Login", "status": "error,interrupted", "since": "yesterday", "until": "today"}
    body = body_of(parse(query, NOW), "acme")
    assert body["query"]["bool"]["filter"] == [
        {"term": {"tenant": "acme"}},
        {"terms": {"status": ["error", "interrupted"]}},
        {
            "bool": {
                "should": [
                    {"terms": {"nodes": ["Login"]}},
                    {"terms": {"next": ["Login"]}},
                    {"terms": {"error.node": ["Login"]}},
                ]
            }
        },
        {"range": {"occurred_at": {"gte": "2026-11-22T00:00:00+00:00", "lt": "2026-11-23T00:00:00+00:00"}}},
    ]
    assert "must" not in body["query"]["bool"]


@given(st.dictionaries(st.sampled_from(["q", "node", "graph", "thread_id", "metadata.tenant"]), st.text(max_size=50)))
def test_the_tenant_is_always_a_filter(query: dict[str, str]) -> None:
    body = body_of(parse(query, NOW), "acme")
    assert {"term": {"tenant": "acme"}} in body["query"]["bool"]["filter"]
    assert set(body["query"]) == {"bool"}
    assert set(body["query"]["bool"]) <= {"filter", "must"}


def found(*sorts: list[Any], total: int = 3) -> dict[str, Any]:
    return {"hits": {"total": {"value": total}, "hits": [{"_source": {"seq": s[2]}, "sort": s} for s in sorts]}}


def test_a_cursor_goes_on_where_the_page_ended_in_the_range_of_the_first_page() -> None:
    query = {"since": "now-2h", "limit": "2", "q": "hello"}
    first = parse(query, NOW)
    answer = answer_of(first, found([30, "c", 3], [20, "b", 2], [10, "a", 1]))
    assert [item["seq"] for item in answer["items"]] == [3, 2]
    later = NOW.replace(hour=23)
    second = parse(query | {"cursor": answer["cursor"], "limit": "5"}, later)
    assert (second.since, second.after, second.limit) == (first.since, (20, "b", 2), 5)
    assert body_of(second, "t")["search_after"] == [20, "b", 2]
    assert answer_of(second, found([10, "a", 1]))["cursor"] is None
    with pytest.raises(SearchProblem, match="another query"):
        parse(query | {"cursor": answer["cursor"], "q": "other"}, NOW)


def test_an_item_has_every_field() -> None:
    item = answer_of(parse({}, NOW), found([1, "a", 7]))["items"][0]
    assert item["seq"] == 7
    assert (item["nodes"], item["next"], item["metadata"], item["highlights"]) == ([], [], {}, {})
    assert item["error"] is item["wait"] is item["checkpoint_id"] is None
