"""Limits of tenants: what a file says, and how seldom the database is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from perdure.chassis.errors import ConfigurationError
from perdure.gateway.stores import usage
from perdure.gateway.stores.limits import Limits, load
from perdure.gateway.stores.quotas import _Bucket
from perdure.gateway.stores.usage import Usage


def written(folder: Path, text: str) -> Path:
    file = folder / "quotas.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_tenant_has_what_its_table_says_and_else_what_holds_for_all(tmp_path: Path) -> None:
    limits = load(written(tmp_path, "open_runs = 5\nthreads = 7\n[tenants.acme]\nopen_runs = 0\n"))
    assert (limits.of("acme").open_runs, limits.of("acme").threads) == (0, 7)
    assert (limits.of("other").open_runs, limits.of("other").threads) == (5, 7)
    assert limits.of("other").schedules == Limits().schedules
    assert load(None).of("anybody") == Limits()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("open_run = 5", "open_run: Extra inputs"),
        ("open_runs = -1", "open_runs: Input should be greater"),
        ("[tenants.acme]\nthread = 1", "tenants.acme.thread: Extra inputs"),
        ('[tenants."a~b"]\nthreads = 1', "'a~b' is no name of a tenant"),
        ("tenants = 3", "must be a table of limits"),
        ("= 5", "Invalid statement"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match="PERDURE_QUOTAS_FILE") as refused:
        load(written(tmp_path, text))
    assert says in str(refused.value)


class Counted:
    """A database that says how many there are, and how often it was asked."""

    def __init__(self, there: int) -> None:
        self.there, self.asked = there, 0

    async def __call__(self) -> int:
        self.asked += 1
        return self.there


async def test_what_is_taken_is_counted_once_and_kept_up() -> None:
    found, used = Counted(97), Usage()
    assert [await used.take(("threads", "a"), 100, found) for _ in range(4)] == [True, True, True, False]
    assert found.asked == 1
    assert await used.take(("threads", "b"), 100, Counted(0)), "another tenant has its own"


async def test_room_that_was_made_is_seen_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    found, used = Counted(100), Usage()
    assert not await used.take(("threads", "a"), 100, found)
    found.there = 10
    assert not await used.take(("threads", "a"), 100, found), "not asked again at once"
    assert found.asked == 1
    monkeypatch.setattr(usage, "AGAIN_S", 0.0)
    monkeypatch.setattr(usage, "SHARE", 0)
    assert await used.take(("threads", "a"), 100, found)
    assert found.asked == 2


async def test_what_others_add_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    found, used = Counted(0), Usage()
    assert await used.take(("threads", "a"), 100, found)
    found.there = 100
    monkeypatch.setattr(usage, "REFRESH_S", 0.0)
    monkeypatch.setattr(usage, "SHARE", 0)
    assert await used.take(("threads", "a"), 100, found), "counted beside the request"
    await asyncio.sleep(0)
    assert not await used.take(("threads", "a"), 100, found)


async def test_small_things_are_not_counted_until_they_are_many() -> None:
    found, used = Counted(0), Usage()
    for _ in range(10):
        assert await used.take(("signals", "t"), 100, found, uncounted=10)
    assert found.asked == 0
    assert await used.take(("signals", "t"), 100, found, uncounted=10)
    assert found.asked == 1


async def test_a_count_that_fails_is_told_and_tried_again() -> None:
    used = Usage()

    async def fails() -> int:
        raise ConnectionError("away")

    with pytest.raises(ConnectionError):
        await used.take(("threads", "a"), 100, fails)
    assert await used.take(("threads", "a"), 100, Counted(0))


def test_a_bucket_lets_a_burst_pass_and_then_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("perdure.gateway.stores.quotas.time.monotonic", lambda: clock[0])
    bucket = _Bucket(rate=2.0, size=4.0)
    assert [bucket.take(1) for _ in range(4)] == [0.0] * 4
    assert bucket.take(1) == pytest.approx(0.5)
    clock[0] += 0.5
    assert bucket.take(1) == 0.0
    clock[0] += 60
    assert bucket.take(1_000) == 0.0, "one request may be larger than the bucket"
    assert bucket.take(1) == pytest.approx(498.5), "and the next ones wait for it"
