"""The block ``auth`` of a ``langgraph.json``: what is served of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.project import read_auth, read_project


def write(folder: Path, block: Any) -> Path:
    file = folder / "langgraph.json"
    file.write_text(json.dumps({"graphs": {"a": "./a.py:graph"}, "auth": block}))
    return file


def test_what_is_served(tmp_path: Path) -> None:
    assert read_auth(tmp_path / "langgraph.json") is None
    assert read_auth(write(tmp_path, None)) is None
    schemes = {"securitySchemes": {"mine": {"type": "http", "scheme": "bearer"}}, "security": [{"mine": []}]}
    for studio in (True, False):
        block = read_auth(write(tmp_path, {"path": "./a.py:auth", "disable_studio_auth": studio, "openapi": schemes}))
        assert block is not None
        assert (block.path, block.openapi) == ("./a.py:auth", schemes)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("./a.py:auth", "must be an object"),
        ({"disable_studio_auth": True}, '"path" must name the Auth object'),
        ({"path": "./a.py"}, "must have the form"),
        ({"path": "./auth.ts:auth"}, "not a Python file"),
        ({"path": "./a.py:auth", "cache": {"ttl_seconds": 60}}, "cache would be without effect"),
        ({"path": "./a.py:auth", "disable_studio_auth": "no"}, "must be true or false"),
        ({"path": "./a.py:auth", "openapi": {"paths": {}}}, "nothing else: paths"),
    ],
)
def test_what_is_refused(tmp_path: Path, block: Any, said: str) -> None:
    file = write(tmp_path, block)
    with pytest.raises(ConfigurationError) as mistake:
        read_project(file)
    assert said in str(mistake.value)
    assert str(file) in str(mistake.value)
