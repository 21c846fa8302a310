"""Rules, pointers and verdicts: what passes, what does not, and why."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from perdure.schemas.validation import (
    Absolute,
    Equal,
    FetcherSource,
    Finding,
    HttpSource,
    NewerThan,
    Premise,
    Range,
    Relative,
    Rule,
    UnchangedHash,
    VerdictOutcome,
)
from perdure.schemas.waits import ValidationRequest, Wait, WaitKind, digest, wait_of
from perdure.validator.domain import DEPTH_LIMIT, FRESH_LIMIT, NotFoundError, Reading, conclude, find, pointed

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SOURCE = FetcherSource(name="world")
P, S, U, A = VerdictOutcome.PROCEED, VerdictOutcome.STALE, VerdictOutcome.UNKNOWN, VerdictOutcome.ASK

numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text()
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4), max_leaves=8
)


def checked(rule: Rule, believed: Any, fresh: Any, **more: Any) -> Finding:
    premise = Premise(name="p", source=SOURCE, believed=believed, rule=rule, **more)
    return find(premise, Reading(NOW, 1, fresh))


@pytest.mark.parametrize(
    ("believed", "fresh", "holds"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (False, 0, False),
        (None, None, True),
        (None, 0, False),
        (None, False, False),
        ("", None, False),
        ("1", 1, False),
        ("a", "a", True),
        ([1, {"a": True}], [1.0, {"a": True}], True),
        ([1, {"a": True}], [1, {"a": 1}], False),
        ([1], [1, 2], False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        (2**53, 2.0**53, True),
        (2**53 + 1, 2.0**53, False),
    ],
)
def test_equal(believed: Any, fresh: Any, holds: bool) -> None:
    assert checked(Equal(), believed, fresh).holds is holds


@pytest.mark.parametrize(
    ("rule", "believed", "fresh", "holds"),
    [
        (Absolute(tolerance=0.1), 1.0, 1.1, True),  # exactly, though 1.1 - 1.0 > 0.1 in binary
        (Absolute(tolerance=0.1), 1.0, 1.1000001, False),
        (Absolute(tolerance=0), 0.3, 0.3, True),
        (Absolute(tolerance=2), 10, 12, True),
        (Absolute(tolerance=1), 10, 12, False),
        (Relative(tolerance=0.01), 10, 10.1, True),
        (Relative(tolerance=0.01), 10, 12, False),
        (Relative(tolerance=0.01), -10, -10.1, True),
        (Relative(tolerance=0.5), 0, 0, True),
        (Relative(tolerance=0.5), 0, 1e-300, False),
        (Range(low=1), None, 1, True),
        (Range(low=1), None, 0.999, False),
        (Range(high=0.1), None, 0.1, True),
        (Range(low=-1, high=1), None, 1.5, False),
    ],
)
def test_numbers(rule: Rule, believed: Any, fresh: Any, holds: bool) -> None:
    assert checked(rule, believed, fresh).holds is holds


NUMERIC = (Absolute(tolerance=1e300), Relative(tolerance=1e300), Range(low=-1e300), NewerThan(max_age_s=1e300))


@pytest.mark.parametrize("rule", NUMERIC, ids=lambda rule: rule.rule)
@pytest.mark.parametrize(
    "fresh", [True, False, None, "10", "NaN", "", [10], {"price": 10}, math.nan, math.inf, -math.inf]
)
def test_what_is_no_number_never_passes(rule: Rule, fresh: Any) -> None:
    finding = checked(rule, 10, fresh)
    assert finding.holds is not True
    assert finding.outcome in (S, U)
    assert finding.reason


@pytest.mark.parametrize("fresh", [math.nan, math.inf, [1, [math.nan]], {"a": {"b": -math.inf}}])
@pytest.mark.parametrize("rule", [Equal(), Range(low=0), UnchangedHash()], ids=lambda rule: rule.rule)
def test_nan_and_infinity_are_unknown_wherever_they_are(rule: Rule, fresh: Any) -> None:
    believed = "0" * 64 if isinstance(rule, UnchangedHash) else 1
    finding = checked(rule, believed, fresh)
    assert (finding.holds, finding.outcome) == (None, U)
    assert "NaN" in finding.reason


@pytest.mark.parametrize(
    ("rule", "fresh", "holds"),
    [
        (NewerThan(max_age_s=60), "2026-11-24T11:59:00Z", True),
        (NewerThan(max_age_s=60), "2026-11-24T12:59:00+01:00", True),
        (NewerThan(max_age_s=60), "2026-11-24T11:58:59Z", False),
        (NewerThan(max_age_s=60), "2026-11-24T12:01:00Z", True),
        (NewerThan(max_age_s=60), "2026-11-24T12:02:00Z", False),
        (NewerThan(max_age_s=60), "2026-11-24T12:00:00", False),
        (NewerThan(max_age_s=60), "2026-11-24", False),
        (NewerThan(max_age_s=60), "soon", False),
        (NewerThan(max_age_s=60), NOW.timestamp(), True),
        (NewerThan(max_age_s=60), NOW.timestamp() * 1000, False),
        (NewerThan(max_age_s=60), 1e300, False),
        (NewerThan(than=NOW), "2026-11-24T12:00:00Z", True),
        (NewerThan(than=NOW), "2026-11-24T11:59:59.999Z", False),
        (NewerThan(than=NOW, max_age_s=1), "2026-11-24T12:00:00Z", True),
    ],
)
def test_newer_than(rule: Rule, fresh: Any, holds: bool) -> None:
    assert checked(rule, None, fresh).holds is holds


def test_unchanged() -> None:
    value = {"b": [1, 2.5, "ü"], "a": None}
    assert checked(UnchangedHash(), digest(value), {"a": None, "b": [1, 2.5, "ü"]}).holds is True
    assert checked(UnchangedHash(), digest(value), {"a": None, "b": [1, 2.5, "u"]}).holds is False


@given(values)
def test_a_value_equals_itself_and_its_digest(value: Any) -> None:
    assert checked(Equal(), value, value).holds is True
    assert checked(UnchangedHash(), digest(value), value).holds is True


@given(values, values)
def test_equal_is_the_equality_of_json(one: Any, other: Any) -> None:
    assert checked(Equal(), one, other).holds is checked(Equal(), other, one).holds
    if digest(one) == digest(other):
        assert checked(Equal(), one, other).holds is True


@given(numbers, numbers, st.floats(0, 1e6))
def test_tolerances_are_exact_in_decimals(believed: float, fresh: float, tolerance: float) -> None:
    exact = {n: Decimal(repr(n)) for n in (believed, fresh, tolerance)}
    span = max(abs(exact[believed]), abs(exact[fresh]))
    if span < Decimal(10) ** 20 and min(abs(d.as_tuple().exponent) for d in exact.values()) < 20:
        wide = abs(exact[fresh] - exact[believed]) - exact[tolerance]
        if abs(wide) > Decimal("1e-6"):
            assert checked(Absolute(tolerance=tolerance), believed, fresh).holds is (wide < 0)


@given(
    st.sampled_from([Equal(), Absolute(tolerance=1), Relative(tolerance=1), Range(low=0), NewerThan(max_age_s=5)]),
    values,
)
def test_whatever_is_found_there_is_a_finding_with_a_reason(rule: Rule, fresh: Any) -> None:
    finding = checked(rule, 5, fresh)
    assert finding.holds in (True, False)
    assert finding.reason
    assert finding.model_dump_json()


def test_drift() -> None:
    assert checked(Relative(tolerance=0.01), 10, 12).drift == 2.0
    assert checked(Equal(), 1.0, 1.1).drift == 0.1
    assert checked(Equal(), "a", 1).drift is None
    assert checked(Equal(), 1, True).drift is None
    assert checked(Absolute(tolerance=1), -1.7e308, 1.7e308).drift is None


DOCUMENT = {"": 0, "a/b": 1, "m~n": 2, "list": [10, {"x": 11}], "text": "abc", "null": None}


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [("", DOCUMENT), ("/", 0), ("/a~1b", 1), ("/m~0n", 2), ("/list/0", 10), ("/list/1/x", 11), ("/null", None)],
)
def test_a_pointer_finds(pointer: str, expected: Any) -> None:
    assert pointed(DOCUMENT, pointer) == expected


@pytest.mark.parametrize(
    "pointer",
    ["/no", "/list/2", "/list/-1", "/list/-", "/list/01", "/list/0x", "/text/0", "/null/a", "/list/0/a", "/list/x"],
)
def test_a_missing_target_is_unknown(pointer: str) -> None:
    with pytest.raises(NotFoundError):
        pointed(DOCUMENT, pointer)
    finding = find(Premise(name="p", source=SOURCE, pointer=pointer), Reading(NOW, 1, DOCUMENT))
    assert (finding.holds, finding.outcome) == (None, U)
    assert pointer in finding.reason


def test_a_missing_target_is_not_null() -> None:
    premise = Premise(name="p", source=SOURCE, pointer="/no", believed=None)
    assert find(premise, Reading(NOW, 1, {})).outcome is U


def test_deep_values_are_unknown() -> None:
    value: Any = 1
    for _ in range(DEPTH_LIMIT + 1):
        value = [value]
    assert checked(Equal(), 1, value).outcome is U
    assert checked(Equal(), [1], value[0][0]).outcome is S


def test_a_large_value_is_replaced_by_its_digest() -> None:
    large = ["x" * FRESH_LIMIT]
    finding = checked(Equal(), large, large)
    assert finding.holds is True
    assert finding.fresh == finding.believed == {"omitted": FRESH_LIMIT + 4, "digest": digest(large)}
    assert checked(Equal(), 10**30, 10**30).fresh == 10**30


def finding_of(outcome: VerdictOutcome, read_at: datetime = NOW) -> Finding:
    return Finding(name=outcome, holds=outcome is P or None, reason="r", read_at=read_at, outcome=outcome)


@given(st.lists(st.sampled_from(list(VerdictOutcome)), min_size=1, max_size=6))
def test_the_first_of_stale_unknown_ask_decides(outcomes: list[VerdictOutcome]) -> None:
    verdict = conclude([finding_of(one) for one in outcomes], "d", 60)
    expected = next((one for one in (S, U, A) if one in outcomes), P)
    assert verdict.outcome is expected
    assert (verdict.outcome is P) == all(one is P for one in outcomes)


def test_a_verdict_expires_after_its_oldest_value() -> None:
    verdict = conclude([finding_of(P), finding_of(P, NOW - timedelta(seconds=20))], "d", 60)
    assert verdict.read_at == NOW - timedelta(seconds=20)
    assert verdict.expires_at == NOW + timedelta(seconds=40)


def test_nothing_checked_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="at least one"):
        conclude([], "d", 60)


def test_policies() -> None:
    assert checked(Equal(), 1, 2).outcome is S
    assert checked(Equal(), 1, 2, on_violation="ask").outcome is A
    unknown = Reading(NOW, 3, problem="no answer")
    refuse = find(Premise(name="p", source=SOURCE, on_violation="ask"), unknown)
    assert (refuse.outcome, refuse.holds, refuse.attempts, refuse.reason) == (U, None, 3, "no answer")
    assert find(Premise(name="p", source=SOURCE, on_unknown="ask"), unknown).outcome is A


@pytest.mark.parametrize(
    "fields",
    [
        {"rule": Absolute(tolerance=1)},
        {"rule": Relative(tolerance=1), "believed": True},
        {"rule": Relative(tolerance=1), "believed": "10"},
        {"rule": UnchangedHash(), "believed": "abc"},
        {"believed": math.nan},
        {"believed": [math.inf]},
        {"believed": {1, 2}},
        {"pointer": "price"},
        {"pointer": "/a~2b"},
        {"attempts": 0},
        {"timeout_s": 0},
    ],
)
def test_a_premise_that_cannot_be_checked_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Premise(name="p", source=SOURCE, **fields)


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        (Range, {}),
        (Range, {"low": 2, "high": 1}),
        (Range, {"low": math.nan}),
        (Absolute, {"tolerance": -1}),
        (Absolute, {"tolerance": math.inf}),
        (Relative, {"tolerance": math.nan}),
        (NewerThan, {}),
        (NewerThan, {"max_age_s": math.inf}),
        (NewerThan, {"than": "2026-11-24T12:00:00"}),
    ],
)
def test_a_rule_that_cannot_fail_or_cannot_hold_is_refused(rule: type[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rule(**fields)


def test_a_wait_for_a_verdict_comes_back_as_it_was() -> None:
    premises = (
        Premise(name="a", source=HttpSource(url="http://h"), believed=None),
        Premise(name="b", source=SOURCE, believed={"x": None}, rule=Equal()),
        Premise(name="c", source=SOURCE, believed=1, rule=Relative(tolerance=0)),
    )
    request = ValidationRequest(premises=premises, action={"x": None}, action_digest=digest({"x": None}))
    wait = Wait(kind=WaitKind.VALIDATION, due_at=NOW, validation=request)
    assert wait_of(wait.value()) == wait
