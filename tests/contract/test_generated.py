"""The generated files: what is committed is what the models say, and drift is shown and fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from perdure.schemas import asyncapi, generate, golden, topics
from perdure.schemas.catalogue import ALL, CONTENTS, file_stem
from perdure.schemas.deadletter import dead_headers
from perdure.schemas.envelope import Header, header_text

GOLDEN = golden.files(generate.ROOT / golden.FOLDER)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the generator reads and writes, to be changed."""
    shutil.copy(generate.ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(generate.ROOT / golden.FOLDER, tmp_path / golden.FOLDER)
    generate.write(tmp_path)
    return tmp_path


def document() -> dict[str, object]:
    found: dict[str, object] = json.loads((generate.ROOT / generate.GENERATED / "asyncapi.json").read_text())
    return found


def resolved(name: str) -> dict[str, object]:
    """A schema that can be used alone: its references lead into the AsyncAPI document."""
    components = document()["components"]
    return {"components": components, "$ref": f"#/components/{name}"}


def test_the_committed_files_are_up_to_date() -> None:
    assert generate.drift(generate.ROOT) == "", "run `make fix`"


def test_drift_is_shown_and_fails(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--check", "--root", str(copy)]
    assert generate.main(arguments) == 0
    changed = copy / generate.GENERATED / "asyncapi.json"
    changed.write_text(changed.read_text().replace('"perdure.commands"', '"perdure.orders"', 1))
    (copy / generate.GENERATED / "perdure.gone.v1.schema.json").write_text("{}")
    assert generate.main(arguments) == 1
    shown = capsys.readouterr().out
    assert '-    "perdure.orders"' in shown
    assert "perdure.gone.v1.schema.json" in shown
    assert "make fix" in shown
    assert generate.main(["--root", str(copy)]) == 0
    assert generate.main(arguments) == 0


def test_the_document_follows_the_asyncapi_specification() -> None:
    schema = json.loads((Path(__file__).parent / "third_party" / "asyncapi-3.0.0.json").read_text())
    found = document()
    # jsonschema reads draft 7's $id and $schema inside definitions as new roots; the copy has none of the former.
    errors = [
        f"{'/'.join(map(str, e.path))}: {e.message}" for e in jsonschema.Draft7Validator(schema).iter_errors(found)
    ]
    assert errors == []


def test_every_topic_has_a_channel_and_every_message_a_place() -> None:
    channels = document()["channels"]
    assert isinstance(channels, dict)
    assert list(channels) == [t.name for t in topics.ALL]
    for name, types in CONTENTS.items():
        assert set(channels[name]["messages"]) == {file_stem(m) for m in types.values()}
    for topic in topics.DEAD:
        assert set(channels[topic.name]["messages"]) == {asyncapi.DEAD_LETTER}
    assert all(channel["summary"] for channel in channels.values())


@pytest.mark.parametrize("name", GOLDEN)
def test_recorded_messages_fit_their_schemas(name: str) -> None:
    record = golden.load(GOLDEN[name])
    headers = header_text(record.headers)
    message = ALL[headers["ce_type"], int(headers["ce_schemaversion"])]
    alone = json.loads((generate.ROOT / generate.GENERATED / f"{file_stem(message)}.schema.json").read_text())
    jsonschema.Draft202012Validator(alone).validate(json.loads(record.value))
    jsonschema.Draft202012Validator(resolved(f"schemas/{message.__name__}")).validate(json.loads(record.value))
    of_headers = resolved(f"messages/{file_stem(message)}/headers")
    jsonschema.Draft202012Validator(of_headers).validate(headers)
    assert headers.keys() == (asyncapi.ENVELOPE_HEADERS | asyncapi.OPTIONAL_HEADERS).keys()
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(of_headers).validate(headers | {"ce_type": "something.else"})


def test_dead_letter_headers_are_all_described() -> None:
    from datetime import UTC, datetime

    from perdure.schemas.deadletter import Reason

    original: list[Header] = [("x", b"1")]
    written = dead_headers(
        original,
        reason=Reason.PAYLOAD,
        detail="d" * 5000,
        topic="t",
        partition=3,
        offset=9,
        consumer="c",
        time=datetime.now(UTC),
    )
    headers = header_text(written)
    assert written[0] == ("x", b"1")
    assert headers.keys() - {"x"} == asyncapi.DEAD_HEADERS.keys()
    assert len(headers["perdure_dead_detail"]) == 2000
    jsonschema.Draft202012Validator(resolved(f"messages/{asyncapi.DEAD_LETTER}/headers")).validate(headers)
