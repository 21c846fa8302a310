"""Redaction rules: what they cover, what they do, and how wrong ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from perdure.chassis.errors import ConfigurationError
from perdure.indexer.redaction import Redaction
from perdure.indexer.rules import load

KEY = SecretStr("secret")


def rules(tmp_path: Path, *found: dict[str, Any], key: SecretStr | None = KEY) -> Redaction:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(found))
    return load(file, key)


@pytest.mark.parametrize(
    ("path", "line", "covered"),
    [
        ("$.a.b", "$.a.b", True),
        ("$.a.b", "$.a.b.c[3]", True),
        ("$.a.b", "$.a.bc", False),
        ("$.a.b", "$.a", False),
        ("$..ssn", "$.x[2].y.ssn", True),
        ("$..ssn", "$.ssn.old", True),
        ("$..ssn", "$.assn", False),
        ("$.messages[*].content", "$.messages[17].content", True),
        ("$.messages[*].content", "$.messages[17].id", False),
        ("$.messages[0]", "$.messages[0].content", True),
        ("$.messages[0]", "$.messages[10].content", False),
        ("$.messages[2:]", "$.messages[2]", True),
        ("$.messages[2:4]", "$.messages[4]", False),
        ("$.*.token", "$.auth.token", True),
        ("$['a.b']", "$.a.b", True),
        ("$['a b'].c", "$.a b.c", True),
        ("$..card..number", "$.x.card.y.z.number", True),
    ],
)
def test_what_a_path_covers(tmp_path: Path, path: str, line: str, covered: bool) -> None:
    redaction = rules(tmp_path, {"path": path, "action": "drop"})
    assert redaction.text(f"{line}\tvalue", "g") == ("" if covered else "value")


def test_values_are_dropped_masked_and_hashed_everywhere(tmp_path: Path) -> None:
    redaction = rules(
        tmp_path,
        {"path": "$..ssn", "action": "drop"},
        {"path": "$.card", "action": "mask"},
        {"path": "$.users[*].name", "action": "hash"},
    )
    value = {"ssn": 1, "card": {"number": 4}, "users": [{"name": "Ada", "ssn": 2, "age": 3}], "n": None}
    found = redaction.value(value, "g")
    hashed = redaction.text("$.users[0].name\tAda", "g")
    assert found == {"card": "***", "users": [{"name": hashed, "age": 3}], "n": None}
    assert hashed.startswith("hmac:")
    assert "Ada" not in hashed


def test_a_rule_may_be_for_one_graph(tmp_path: Path) -> None:
    redaction = rules(tmp_path, {"path": "$.a", "action": "drop", "graph": "billing"})
    assert redaction.value({"a": 1}, "billing") == {}
    assert redaction.value({"a": 1}, "support") == {"a": 1}


def test_values_are_unescaped_and_cut_paths_are_left_out() -> None:
    assert Redaction().text("$.a\tone\\ntwo\\t\\\\n\n$.b\tthree\n$.cut", "g") == "one\ntwo\t\\n\nthree"


def test_a_line_without_a_known_path_is_not_indexed_where_there_are_rules(tmp_path: Path) -> None:
    text = "$.odd\nkey\tsecret\n$.b\tfine"
    assert rules(tmp_path, {"path": "$.odd", "action": "drop"}).text(text, "g") == "fine"


@given(st.recursive(st.text() | st.integers() | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_without_rules_nothing_changes(value: Any) -> None:
    assert Redaction().value(value, "g") == value


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"path": "$.a[", "action": "drop"}, "not a JSONPath"),
        ({"path": "$.a", "action": "burn"}, "action"),
        ({"action": "drop"}, "path"),
        ({"path": "$.a[?@.b > 1]", "action": "drop"}, "only names"),
        ({"path": "$.a[-1]", "action": "drop"}, "only names"),
        ({"path": "$['a','b']", "action": "drop"}, "one rule for each selector"),
        ({"path": "$", "action": "drop"}, "selects everything"),
        ({"path": "$.a", "action": "drop", "graphs": "x"}, "graphs"),
        ("$.a", "rule"),
    ],
)
def test_a_wrong_rule_is_named(tmp_path: Path, rule: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        rules(tmp_path, {"path": "$.fine", "action": "drop"}, rule)
    assert "rules.json: rule 2" in str(refused.value)
    assert says in str(refused.value)


def test_files_that_are_no_rules(tmp_path: Path) -> None:
    for name, content in {"a.json": "{", "b.json": "{}", "c.toml": "x ="}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(ConfigurationError, match=name):
            load(tmp_path / name, KEY)
    with pytest.raises(ConfigurationError, match="missing"):
        load(tmp_path / "missing.json", KEY)


def test_toml_and_a_hash_without_its_key(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[[rules]]\npath = "$.a"\naction = "hash"\n')
    assert load(file, KEY).value({"a": 1}, "g")["a"].startswith("hmac:")
    with pytest.raises(ConfigurationError, match="PERDURE_REDACTION_KEY"):
        load(file, None)
    assert not load(None, None)
