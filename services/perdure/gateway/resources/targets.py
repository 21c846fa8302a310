"""Where people may be told: targets of subscriptions, and the ``webhook`` of a run.

Contract: raises ``RequestProblem`` for what can be no target, by the same reading of a URL as the notifier's.
Whether the address of a target may be reached is decided when a notice is sent.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from yarl import URL

from perdure.gateway.http.problems import invalid
from perdure.registry.subscriptions import is_address, may_be_mailed
from perdure.schemas.notices import ASSIGNED_TO, Channel


def require_target(channel: Channel, target: str, mail_to: Collection[str] | None = None) -> None:
    """Refuse what can be no target of a subscription; ``mail_to``: who may be mailed, ``None``: everybody."""
    if channel is not Channel.EMAIL:
        _require_url(target, "/target")
    elif target != ASSIGNED_TO and not is_address(target):
        raise invalid("/target", f"must be one plain e-mail address, such as ann@example.com, or {ASSIGNED_TO}")
    elif target != ASSIGNED_TO and not may_be_mailed(target, mail_to):
        raise invalid(
            "/target", "may not be mailed: the operator allows certain addresses and domains only (PERDURE_MAIL_TO)"
        )


def require_webhook(webhook: Any) -> None:
    """Refuse what can be no ``webhook`` of a run; ``None`` is none."""
    if webhook is not None:
        _require_url(webhook, "/webhook")


def _require_url(target: str, pointer: str) -> None:
    try:
        url = URL(target)
        usable = url.scheme in ("http", "https") and bool(url.host) and url.port != 0
    except ValueError:
        usable = False
    if not usable or not target.isprintable() or " " in target:
        raise invalid(pointer, "must be a URL, such as https://example.com/hooks")
    if not urlsplit(target).netloc.isascii():
        raise invalid(pointer, f"must name its host in ASCII, as it is connected to: {url.raw_host}")
    if url.user is not None or url.password is not None:
        raise invalid(pointer, "must not hold user and password; the signature says who sends")
