"""Slack by incoming webhook, as Block Kit.

Contract: everything that comes from a graph or a person is escaped (``&``, ``<``, ``>``) and sent as ``verbatim``, so that it can
neither link nor mention. The blocks are made and checked by slack-sdk's models; they are sent by our own client, because the
SDK's follows redirects and reads answers of any length, and a Slack URL is an address that somebody else chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from slack_sdk.models.blocks import (
    ActionsBlock,
    Block,
    ButtonElement,
    ContextBlock,
    HeaderBlock,
    LinkButtonElement,
    MarkdownTextObject,
    PlainTextObject,
    SectionBlock,
)

from perdure.chassis import json
from perdure.notifier.channels.http import GuardedHttp
from perdure.notifier.channels.result import Result
from perdure.notifier.composing import Composed, Composer

HEADER_LIMIT: Final = 150
SECTION_LIMIT: Final = 3000
FIELD_LIMIT: Final = 2000
FIELDS_LIMIT: Final = 10
BLOCKS_LIMIT: Final = 50


class SlackChannel:
    """Sends to Slack."""

    def __init__(self, http: GuardedHttp, composer: Composer) -> None:
        self._http = http
        self._composer = composer

    async def send(self, delivery: Mapping[str, Any], _: Mapping[str, Any] | None) -> Result:
        """POST it."""
        composed = await self._composer.compose(delivery)
        body = json.dumps(message_of(composed))
        return await self._http.post(delivery["target"], body, {"Content-Type": "application/json"})

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


def message_of(composed: Composed) -> dict[str, Any]:
    """The body for an incoming webhook: blocks, and the text that notifications show."""
    blocks: list[Block] = [HeaderBlock(text=PlainTextObject(text=cut(composed.subject, HEADER_LIMIT), emoji=False))]
    if composed.summary:
        blocks.append(_section(composed.summary))
    fields = [f"*{escape(name, 100)}*\n{escape(value, FIELD_LIMIT - 110)}" for name, value in composed.facts if value]
    for start in range(0, len(fields), FIELDS_LIMIT):
        part = [MarkdownTextObject(text=one, verbatim=True) for one in fields[start : start + FIELDS_LIMIT]]
        blocks.append(SectionBlock(fields=part))
    blocks += [_section(f"{title}\n{text}") for title, text in composed.blocks]
    if composed.answer_url is not None:
        blocks.append(ActionsBlock(elements=[_button(composed.answer_url)]))
    blocks.append(ContextBlock(elements=[MarkdownTextObject(text=escape(composed.footer, FIELD_LIMIT), verbatim=True)]))
    return {"text": escape(composed.subject, HEADER_LIMIT), "blocks": [b.to_dict() for b in blocks[:BLOCKS_LIMIT]]}


def escape(text: str, limit: int) -> str:
    """Text as Slack's mrkdwn shows it and not as it would read it; cut so that no entity is halved."""
    shown = text
    while True:
        escaped = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        if len(escaped) <= limit:
            return escaped
        shown = cut(shown, max(1, len(shown) - max(1, (len(escaped) - limit) // 5)))


def cut(text: str, limit: int) -> str:
    """Text of at most ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _section(text: str) -> SectionBlock:
    # Plain text: mrkdwn would still read *, _ and ` of what people wrote.
    return SectionBlock(text=PlainTextObject(text=cut(text, SECTION_LIMIT), emoji=False))


def _button(url: str) -> ButtonElement:
    return LinkButtonElement(text="Answer", url=url, action_id="answer", style="primary")
