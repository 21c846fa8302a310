"""What the filters of ``auth`` handlers mean: of a document, and for what is made."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.gateway.auth.reach import BadFilter, Reach, conditions_of, stamp_of


@pytest.mark.parametrize(
    ("given", "auth", "covered"),
    [
        ({}, {}, True),
        ({"owner": "ann"}, {"owner": "ann", "more": 1}, True),
        ({"owner": {"$eq": "ann"}}, {"owner": "ann"}, True),
        ({"owner": "ann"}, {"owner": "eve"}, False),
        ({"owner": "ann"}, {}, False),
        ({"owner": "ann"}, {"owner": ["ann"]}, False),
        ({"owner": None}, {}, False),
        ({"n": 1}, {"n": True}, False),
        ({"owner": "ann", "org": "x"}, {"owner": "ann"}, False),
        ({"team": {"$contains": "ann"}}, {"team": ["eve", "ann"]}, True),
        ({"team": {"$contains": ["ann", "eve"]}}, {"team": ["eve", "ann", "bob"]}, True),
        ({"team": {"$contains": ["ann", "eve"]}}, {"team": ["ann"]}, False),
        ({"team": {"$contains": "ann"}}, {"team": "ann"}, False),
        ({"team": {"$contains": "ann", "$eq": "ann"}}, {"team": ["ann"]}, False),
    ],
)
def test_conditions(given: dict[str, Any], auth: dict[str, Any], covered: bool) -> None:
    reach = Reach(conditions_of(given))
    assert reach.covers({"auth": auth, "metadata": {"owner": "ann", "team": ["ann", "eve"]}}) is covered
    assert reach.limited is bool(given)
    assert reach.covers(None) is not reach.limited
    assert len(reach.clauses()) == len(reach.conditions)


@pytest.mark.parametrize(
    "given",
    [
        {"owner": {"$ne": "ann"}},
        {"owner": {}},
        {"owner": ["ann"]},
        {"owner": {"$eq": {"a": 1}}},
        {"owner": {"$contains": []}},
        {"$where": "1"},
        {"a.b": 1},
        {"": 1},
        {"owner": {"$contains": [["ann"]]}},
    ],
)
def test_what_is_not_understood_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadFilter):
        conditions_of(given)


def test_what_is_made_has_what_the_handler_put_and_asks_for() -> None:
    asked = conditions_of({"owner": "ann", "team": {"$contains": "ann"}, "other": {"$contains": "ann"}})
    metadata = {"owner": "eve", "team": ["ann", "eve"], "other": ["eve"], "of client": 1}
    assert stamp_of(asked, {"org": "x"}, metadata) == {"org": "x", "owner": "ann", "team": ["ann", "eve"]}
    with pytest.raises(BadFilter):
        stamp_of((), {"$set": 1}, {})
