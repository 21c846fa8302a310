"""How much a JSON text would become, told before it is parsed."""

from __future__ import annotations

import time

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.gateway.http import budget
from perdure.gateway.http.budget import too_many_values

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a,:[{\\"é\n', max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text('a,:[{\\"', max_size=4), inner, max_size=5),
    max_leaves=40,
)
LONG = 8 * 1024 * 1024


def marks(value: object) -> int:
    """Commas, colons and opening brackets of a value's JSON, outside of its strings."""
    if isinstance(value, dict):
        return 1 + 2 * len(value) - bool(value) + sum(map(marks, value.values()))
    if isinstance(value, list):
        return 1 + len(value) - bool(value) + sum(map(marks, value))
    return 0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON, st.integers(1, 7), st.integers(1, 200))
def test_values_are_counted_outside_of_strings(value: object, piece: int, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(budget, "PIECE_BYTES", piece)
        text = orjson.dumps(value)
        assert too_many_values(text, limit) is (len(text) > limit and marks(value) > limit)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60), st.integers(1, 7))
def test_anything_can_be_counted(text: bytes, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(budget, "PIECE_BYTES", piece)
        assert too_many_values(text, 1) in (True, False)


@pytest.mark.parametrize(
    ("text", "many"),
    [
        (b"[" + b"[]," * LONG + b"0]", True),
        (b'["' + b",:[{" * LONG + b'"]', False),
        (b'["' + b'\\",' * LONG + b'"]', False),
        (b'["' + b"\\" * LONG, False),
        (b'"' * LONG, False),
        (b"," * 1000 + b"x" * LONG, False),
    ],
    ids=["lists", "a string of marks", "escaped quotes", "backslashes", "quotes", "prose"],
)
def test_counting_takes_linear_time(text: bytes, many: bool) -> None:
    began = time.process_time()
    assert too_many_values(text, 250_000) is many
    assert time.process_time() - began < 50e-9 * len(text) + 0.1
