"""A log that grows while it is read: each line is shown once."""

from __future__ import annotations

from pathlib import Path

from perdure.local.logs import Log


def test_what_is_written_between_the_two_reads_comes_once(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    path.write_text("first t1\nsecond\nthird t1 in two ")
    log = Log(path, lambda: False)
    with path.open("a") as file:
        file.write("parts\nfourth t1\n")
    assert log.last(10) == ["first t1", "second"]
    assert log.last(1) == ["second"]
    assert list(log.holding("t1")) == ["first t1"]
    assert list(log.coming()) == ["third t1 in two parts", "fourth t1"]


def test_lines_that_were_rotated_out_come_first(tmp_path: Path) -> None:
    (tmp_path / "service.1.log").write_text("zeroth t1\nother\n")
    (tmp_path / "service.log").write_text("first t1\n")
    assert list(Log(tmp_path / "service.log", lambda: False).holding("t1")) == ["zeroth t1", "first t1"]


def test_a_log_that_is_not_there_yet_is_empty_and_may_come(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "service.log"
    log = Log(path, lambda: False)
    assert (log.last(10), list(log.holding("t1"))) == ([], [])
    path.parent.mkdir()
    path.write_text("first\n")
    assert list(log.coming()) == ["first"]


def test_last_reads_the_end_of_a_long_log(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    path.write_text("".join(f"line {number}\n" for number in range(50_000)))
    assert Log(path, lambda: False).last(2) == ["line 49998", "line 49999"]
