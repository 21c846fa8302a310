"""Which retention holds for which thread, and what a policy file may say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.archive.policy import RetentionPolicy, load
from perdure.chassis.errors import ConfigurationError

ENDED = datetime(2026, 11, 1, tzinfo=UTC)
POLICY = """
keep_days = 10
purge_days = 365

[[rules]]
tenant = "bank"
metadata = { "case.kind" = "fraud" }
keep_days = "forever"

[[rules]]
assistant = "recruiter"
keep_days = 0.5
purge_days = "never"

[[rules]]
tenant = "bank"
purge_days = 7
"""


def thread(**fields: Any) -> dict[str, Any]:
    return {
        "_id": "t",
        "tenant": "acme",
        "graph_id": "chat",
        "assistant_id": "a-1",
        "updated_at": ENDED,
        "archive": {"at": ENDED},
    } | fields


@pytest.fixture
def policy(tmp_path: Path) -> RetentionPolicy:
    file = tmp_path / "retention.toml"
    file.write_text(POLICY)
    return load(file)


@pytest.mark.parametrize(
    ("fields", "keep", "purge", "rule"),
    [
        ({}, 10, 365, "default"),
        ({"tenant": "bank", "metadata": {"case": {"kind": "fraud"}}}, None, 365, "rule 1"),
        ({"tenant": "bank", "metadata": {"case": {"kind": "loan"}}}, 10, 7, "rule 3"),
        ({"tenant": "bank", "metadata": {"case": "fraud"}}, 10, 7, "rule 3"),
        ({"tenant": "bank", "metadata": {"case.kind": "fraud"}}, None, 365, "rule 1"),
        ({"graph_id": "recruiter"}, 0.5, None, "rule 2"),
        ({"assistant_id": "recruiter", "tenant": "bank"}, 0.5, None, "rule 2"),
    ],
)
def test_the_first_rule_that_fits_decides(
    policy: RetentionPolicy, fields: dict[str, Any], keep: float | None, purge: float | None, rule: str
) -> None:
    found = policy.of(thread(**fields))
    assert found.keep == (None if keep is None else timedelta(days=keep))
    assert found.purge == (None if purge is None else timedelta(days=purge))
    assert found.rule == rule


def test_a_thread_that_came_back_is_kept_anew() -> None:
    retention = RetentionPolicy().of(thread())
    assert retention.archive_due(thread()) == ENDED + timedelta(days=30)
    back = ENDED + timedelta(days=100)
    assert retention.archive_due(thread(restored_at=back)) == back + timedelta(days=30)
    assert retention.purge_due(thread()) is None


def test_nothing_is_looked_at_that_no_rule_could_archive(policy: RetentionPolicy) -> None:
    assert policy.shortest_keep == timedelta(hours=12)
    assert RetentionPolicy(keep_days="forever").shortest_keep is None


def test_without_a_file_thirty_days() -> None:
    assert load(None) == RetentionPolicy(keep_days=30.0, purge_days="never")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keep_days = -1", "file: keep_days must be 0 to"),
        ('keep_days = "always"', "keep_days"),
        ('[[rules]]\ntenat = "x"', "rules.0.tenat"),
        ("[[rules]]\npurge_days = 1000000", "rule 1: purge_days must be 0 to"),
        ("keep_days = ", "retention.toml"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "retention.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=says) as error:
        load(file)
    assert "PERDURE_RETENTION_FILE" in str(error.value)


def test_a_json_file_is_read_too(tmp_path: Path) -> None:
    file = tmp_path / "retention.json"
    file.write_text('{"keep_days": 1, "rules": [{"assistant": "chat", "keep_days": "forever"}]}')
    assert load(file).of(thread()).keep is None
