"""Webhooks as Standard Webhooks (www.standardwebhooks.com, specification 1.0) says.

Where a subscription wants ``langgraph``, the body is the run instead (``perdure.notifier.run_bodies``); the headers are the same.

Contract: ``webhook-id`` is the delivery's id, the same in every attempt; ``webhook-timestamp`` is the attempt's;
``webhook-signature`` has one signature for each secret that is valid, so that a receiver may change over while both are.
The body is ``{"type": ..., "timestamp": ..., "data": {...}}``; ``timestamp`` is when it happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from perdure.chassis import json
from perdure.chassis.clock import now
from perdure.chassis.errors import ConfigurationError
from perdure.notifier.channels.http import GuardedHttp
from perdure.notifier.channels.result import Result
from perdure.notifier.run_bodies import RunBodies
from perdure.registry.subscriptions import valid_secrets
from perdure.schemas.notices import TYPES, WebhookFormat

CONTENT_TYPE: Final = "application/json"


class WebhookChannel:
    """Sends webhooks.

    Args:
        http: Who sends.
        run_secret: Signs what goes to the ``webhook`` of a run; unsigned without one.
        runs: Makes the bodies in the format ``langgraph``.

    Raises:
        ConfigurationError: the secret cannot be used.

    """

    def __init__(self, http: GuardedHttp, run_secret: str | None, runs: RunBodies) -> None:
        try:
            _ = run_secret is None or Webhook(run_secret)
        except (ValueError, RuntimeError, EmptyWebhookSecretError) as error:
            raise ConfigurationError(
                "PERDURE_NOTIFIER_WEBHOOK_SECRET must be whsec_ and base64, as Standard Webhooks writes secrets"
            ) from error
        self._http = http
        self._runs = runs
        self._run_secrets = [run_secret] if run_secret else []

    async def send(self, delivery: Mapping[str, Any], subscription: Mapping[str, Any] | None) -> Result:
        """POST it."""
        moment = now()
        whole = delivery.get("format") == WebhookFormat.LANGGRAPH
        body = await self._runs.of(delivery) if whole else body_of(delivery)
        if body is None:
            return Result(delivered=False, reason="the run's document does not say yet that it has ended")
        secrets = self._run_secrets if subscription is None else valid_secrets(subscription, moment)
        return await self._http.post(delivery["target"], body, headers_of(delivery["_id"], body, secrets, moment))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


def body_of(delivery: Mapping[str, Any]) -> bytes:
    """The body of a webhook."""
    told = {
        "type": TYPES[delivery["kind"]],
        "timestamp": delivery["occurred_at"].isoformat(),
        "data": delivery["data"],
    }
    return json.dumps(told)


def headers_of(message_id: str, body: bytes, secrets: Sequence[str], now: datetime) -> dict[str, str]:
    """The headers of a webhook: without a secret there is no signature."""
    found = {
        "Content-Type": CONTENT_TYPE,
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
    }
    text = body.decode()
    signatures = [Webhook(secret).sign(message_id, now, text) for secret in secrets]
    return found | ({"webhook-signature": " ".join(signatures)} if signatures else {})
