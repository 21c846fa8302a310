"""Whether a start is answered 202 or 200."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from perdure.gateway.http.preferences import StartStatus, accepted


@pytest.mark.parametrize(
    ("setting", "headers", "expected"),
    [
        ("auto", {}, (202, {})),
        ("auto", {"Sec-Fetch-Mode": "cors"}, (200, {})),
        ("200", {}, (200, {})),
        ("200", {"Prefer": "respond-async"}, (202, {"Preference-Applied": "respond-async"})),
        (
            "auto",
            {"Prefer": "wait=5, , return = representation"},
            (200, {"Preference-Applied": "return=representation"}),
        ),
    ],
)
def test_the_setting_and_the_request_decide(
    setting: StartStatus, headers: dict[str, str], expected: tuple[int, dict[str, str]]
) -> None:
    assert accepted(make_mocked_request("POST", "/runs", headers), setting) == expected
