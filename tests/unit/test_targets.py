"""Where people may be told: what can be no target is refused when it is given."""

from __future__ import annotations

import pytest

from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.resources.targets import require_webhook


@pytest.mark.parametrize(
    ("webhook", "host"),
    [
        ("https://\uff11\uff12\uff17.\uff10.\uff10.\uff11/x", "127.0.0.1"),
        ("https://127\u30020\u30020\u30021/x", "127.0.0.1"),
        ("https://b\u00fccher.example/x", "xn--bcher-kva.example"),
    ],
)
def test_a_host_is_named_as_it_is_connected_to(webhook: str, host: str) -> None:
    with pytest.raises(RequestProblem, match=f"ASCII, as it is connected to: {host}"):
        require_webhook(webhook)


@pytest.mark.parametrize(
    "webhook", ["https://xn--bcher-kva.example/x", "https://example.com/b\u00fccher?x=\u00fc", None]
)
def test_what_can_be_a_target(webhook: str | None) -> None:
    require_webhook(webhook)
