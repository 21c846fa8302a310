"""Golden files: readable by today's code, complete, and never changed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import ClassVar

import pytest

from perdure.schemas import golden
from perdure.schemas.catalogue import ALL
from perdure.schemas.commands import StartRun
from perdure.schemas.envelope import decode
from perdure.schemas.generate import ROOT
from perdure.schemas.message import Message

FOLDER = ROOT / golden.FOLDER
GOLDEN = golden.files(FOLDER)

_spec = importlib.util.spec_from_file_location("samples", Path(__file__).with_name("samples.py"))
assert _spec is not None
assert _spec.loader is not None
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "golden"))


def test_nothing_is_wrong() -> None:
    assert golden.problems(FOLDER) == []


@pytest.mark.parametrize("name", GOLDEN)
def test_it_decodes_to_the_message_that_was_recorded_and_back(name: str) -> None:
    record = golden.load(GOLDEN[name])
    decoded = decode(record.headers, record.value, ALL)
    assert decoded.message == samples.SAMPLES[name.removesuffix(".json")]
    again = golden.encode_again(decoded)
    assert again.key == record.key
    assert again.headers == record.headers
    assert decode(again.headers, again.value, ALL) == decoded


def test_every_sample_is_recorded() -> None:
    assert {f"{name}.json" for name in samples.SAMPLES} == set(GOLDEN)


def test_a_type_without_a_golden_file_is_found() -> None:
    class Paused(Message):
        TYPE: ClassVar[str] = "perdure.run.paused"
        VERSION: ClassVar[int] = 1

    class StartRun2(StartRun):
        VERSION: ClassVar[int] = 2

    types = {**ALL, ("perdure.run.paused", 1): Paused, ("perdure.run.start", 2): StartRun2}
    assert [p.partition(" ")[0] for p in golden.problems(FOLDER, types)] == [
        "perdure.run.paused.v1.json",
        "perdure.run.start.v2.json",
    ]


def test_a_version_that_is_dropped_is_found() -> None:
    types = {key: cls for key, cls in ALL.items() if key != ("perdure.run.cancel", 1)}
    assert any("perdure.run.cancel.v1.json: today's code cannot read it" in p for p in golden.problems(FOLDER, types))


def test_a_changed_file_is_found(copy: Path) -> None:
    path = copy / "perdure.run.start.v1.json"
    path.write_bytes(path.read_bytes().replace(b"acme", b"ACME"))
    assert any("perdure.run.start.v1.json was changed" in p for p in golden.problems(copy))


def test_a_removed_file_is_found(copy: Path) -> None:
    (copy / "perdure.run.start.v1.recovered.json").unlink()
    assert golden.problems(copy) == ["perdure.run.start.v1.recovered.json is gone; golden files are append only"]


def test_a_field_that_is_renamed_with_a_default_is_found() -> None:
    class Renamed(Message):
        """Reads every old record without an error, and loses what it says."""

        TYPE: ClassVar[str] = "perdure.run.start"
        VERSION: ClassVar[int] = 1

        run_id: str
        why: str = ""

    found = golden.problems(FOLDER, {**ALL, ("perdure.run.start", 1): Renamed})
    assert any("perdure.run.start.v1.json: today's code changes or loses /reason" in p for p in found)


def test_a_newer_writer_may_add_fields() -> None:
    record = golden.load(GOLDEN["perdure.run.start.v1.json"])
    value = json.dumps({**json.loads(record.value), "priority": 5}).encode()
    assert decode(record.headers, value, ALL).message == samples.SAMPLES["perdure.run.start.v1"]
