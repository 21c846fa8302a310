"""Search: parameters, times, cursors and the query that is sent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.gateway.search.fields import moment
from perdure.gateway.search.query import SearchProblem, answer_of, body_of, parse

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
    assert moment(value, NOW).isoformat() == expected


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
        {
            "bool": {
                "should": [
                    {"terms": {"nodes": ["Login"]}},
                    {"terms": {"next": ["Login"]}},
                    {"terms": {"error.node": ["Login"]}},
                ],
                "minimum_should_match": 1,
            }
        },
        {"terms": {"status": ["error", "interrupted"]}},
        {"range": {"occurred_at": {"gte": "2026-11-22T00:00:00+00:00"}}},
        {"range": {"occurred_at": {"lt": "2026-11-23T00:00:00+00:00"}}},
    ]


def test_parameters_are_fields_of_the_language() -> None:
    as_parameters = {"node": "Login", "status": "error,stuck", "since": "yesterday", "metadata.customer": "42"}
    as_text = "node:Login status:error,stuck since:yesterday metadata.customer:42"
    (filters,) = [clause["bool"]["filter"] for clause in parse({"q": as_text}, NOW).clauses]
    assert list(parse(as_parameters, NOW).clauses) == filters


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("ndoe:Login", 0, "did you mean node?"),
        ("a tenant:other", 2, "the tenant is always"),
        ("http://x", 0, "in quotes"),
        ("status:error,stuk", 13, "did you mean stuck?"),
        ("a step:ten", 7, "whole number"),
        ("duration>5parsecs", 9, "a duration such as"),
        ("step:..", 5, "a range has an end"),
        ("step:1..x", 8, "whole number"),
        ("node>a", 0, "takes no >"),
        ("a since:tomorrow", 8, "ISO 8601"),
        ("a OR scope:threads", 5, "scope holds for the whole query"),
        ("scope:runs", 6, "scope must be"),
        ("(a", 0, "not closed"),
    ],
)
def test_mistakes_of_a_text_have_positions(text: str, position: int, says: str) -> None:
    with pytest.raises(SearchProblem) as refused:
        parse({"q": text}, NOW)
    assert (refused.value.pointer, refused.value.position) == ("query:q", position)
    assert says in refused.value.detail


def test_comparisons_ranges_and_scope() -> None:
    (clause,) = parse({"q": "step>10 duration:5m.. seq:3..7 at:yesterday scope:threads"}, NOW).clauses
    assert clause["bool"]["filter"] == [
        {"range": {"step": {"gt": 10}}},
        {"range": {"duration_ms": {"gte": 300_000.0}}},
        {"range": {"seq": {"gte": 3, "lte": 7}}},
        {"range": {"occurred_at": {"gte": "2026-11-22T00:00:00+00:00", "lt": "2026-11-23T00:00:00+00:00"}}},
    ]
    assert parse({"q": "scope:threads"}, NOW).index == "perdure-threads"


FRAGMENTS = [
    "tenant:",
    "tenant",
    "OR",
    "|",
    "-",
    "NOT",
    "(",
    ")",
    '"',
    "*",
    ":",
    "node:",
    "metadata.tenant:",
    "other",
    " ",
]


@given(st.lists(st.sampled_from(FRAGMENTS)).map("".join) | st.text(max_size=80))
def test_no_text_reaches_another_tenant(text: str) -> None:
    try:
        query = body_of(parse({"q": text}, NOW), "acme")["query"]
    except SearchProblem:
        return
    first, *others = query["bool"]["filter"]
    assert query.keys() == {"bool"}
    assert query["bool"].keys() == {"filter"}
    assert first == {"term": {"tenant": "acme"}}
    assert "tenant" not in {field for clause in others for field in fields_of(clause)}


def fields_of(clause: Any) -> list[str]:
    """Every field that a clause looks at; fails on a kind of clause that is not known here."""
    ((kind, body),) = clause.items()
    if kind == "bool":
        return [
            field
            for several in body.values()
            if isinstance(several, list)
            for one in several
            for field in fields_of(one)
        ]
    if kind == "multi_match":
        return list(body["fields"])
    if kind == "exists":
        return [body["field"]]
    assert kind in {"terms", "term", "prefix", "range"}
    return list(body)


@given(st.dictionaries(st.sampled_from(["q", "node", "graph", "thread_id", "metadata.tenant"]), st.text(max_size=50)))
def test_the_tenant_is_always_a_filter(query: dict[str, str]) -> None:
    try:
        body = body_of(parse(query, NOW), "acme")
    except SearchProblem:
        return
    assert {"term": {"tenant": "acme"}} in body["query"]["bool"]["filter"]
    assert set(body["query"]) == {"bool"}
    assert set(body["query"]["bool"]) <= {"filter"}


def found(*sorts: list[Any], total: int = 3) -> dict[str, Any]:
    return {"hits": {"total": {"value": total}, "hits": [{"_source": {"seq": s[2]}, "sort": s} for s in sorts]}}


def test_a_cursor_goes_on_where_the_page_ended_in_the_range_of_the_first_page() -> None:
    query = {"since": "now-2h", "limit": "2", "q": "hello"}
    first = parse(query, NOW)
    answer = answer_of(first, found([30, "c", 3, 0], [20, "b", 2, 0], [10, "a", 1, 0]))
    assert [item["seq"] for item in answer["items"]] == [3, 2]
    later = NOW.replace(hour=23)
    second = parse(query | {"cursor": answer["cursor"], "limit": "5"}, later)
    assert (second.clauses, second.after, second.limit) == (first.clauses, (20, "b", 2, 0), 5)
    assert body_of(second, "t")["search_after"] == [20, "b", 2, 0]
    assert answer_of(second, found([10, "a", 1, 0]))["cursor"] is None
    with pytest.raises(SearchProblem, match="another query"):
        parse(query | {"cursor": answer["cursor"], "q": "other"}, NOW)


def test_an_item_has_every_field() -> None:
    item = answer_of(parse({}, NOW), found([1, "a", 7]))["items"][0]
    assert item["seq"] == 7
    assert (item["nodes"], item["next"], item["metadata"], item["highlights"]) == ([], [], {}, {})
    assert item["error"] is item["wait"] is item["checkpoint_id"] is None


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01", "9999-12-30"])
def test_the_first_and_the_last_day_of_the_calendar(day: str) -> None:
    (clause,) = parse({"q": f"at:{day}"}, NOW).clauses
    (span,) = clause["range"].values()
    assert span["gte"].startswith(day)
    assert ("lt" in span) is (day != "9999-12-31"), "no day comes after the last"
