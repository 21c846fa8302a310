"""Reply addresses: what an agent puts into the ``Reply-To`` of a mail that it sends itself (ADR 13).

::

    async def ask(state):
        address = await reply_address("reply", recipient=state["email"], expires=timedelta(hours=96))
        await effect("ask", lambda key: send(key, to=state["email"], reply_to=address, ...), ...)

    async def wait(state):
        reply = wait_for_event("reply", timeout=timedelta(hours=48))      # .payload["text"] is what was written

A mail to that address, which your mail server hands to ``POST /inbound/email``, is the signal ``event`` to the thread, with the
payload ``{"from", "subject", "text", "message_id", ...}``. It may come before the wait: signals are kept.

Contract: the address is stored before it is returned. Called again (a node runs again), it gives another address that is as good:
leave it out of an effect's ``action``. ``None`` where the installation offers no reply addresses (``PERDURE_MAIL_DOMAIN`` is not
set for agent-step): the mail goes without. The secret part is random, so that a worker needs no secret that opens anything else.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from datetime import timedelta
from typing import Final

from perdure.chassis.clock import now
from perdure.chassis.outage import outlast
from perdure.checkpoint.scope import RunScope
from perdure.registry.answer_links import REPLY_TOKEN_BYTES
from perdure.registry.answer_links import reply_address as new_address
from perdure.registry.reply_addresses import ReplyAddresses
from perdure.schemas.documents import RUNS
from perdure.schemas.moments import in_milliseconds
from perdure.schemas.waits import SIGNAL_NAME_PATTERN
from perdure.sdk.context import SdkContext, current
from perdure.sdk.errors import WaitError

LONGEST: Final = timedelta(days=365)


async def reply_address(event: str = "reply", *, recipient: str, expires: timedelta) -> str | None:
    """An address whose mail wakes this thread; for ``async`` nodes.

    Args:
        event: The signal that a reply is.
        recipient: To whom the mail goes; kept with the address.
        expires: Mail that comes later is ignored; at most a year.

    Raises:
        OutsidePerdure: no node is executing, or not under agent-step.
        WaitError: an argument cannot be used.

    """
    _check(event, expires)
    scope, sdk = current("reply_address")
    return await _make(scope, sdk, event, recipient, expires)


def reply_address_blocking(event: str = "reply", *, recipient: str, expires: timedelta) -> str | None:
    """As :func:`reply_address`, for nodes that are not ``async``."""
    _check(event, expires)
    scope, sdk = current("reply_address_blocking")
    return asyncio.run_coroutine_threadsafe(_make(scope, sdk, event, recipient, expires), sdk.loop).result()


def _check(event: str, expires: timedelta) -> None:
    if not re.fullmatch(SIGNAL_NAME_PATTERN, event):
        raise WaitError(f"{event!r} is no name of a signal: 1 to 128 of A-Z a-z 0-9 . _ : -")
    if not timedelta(0) < expires <= LONGEST:
        raise WaitError(f"a reply address expires after more than nothing and at most a year, not after {expires}")


async def _make(scope: RunScope, sdk: SdkContext, event: str, recipient: str, expires: timedelta) -> str | None:
    if sdk.mail_domain is None:
        return None
    run = await outlast(lambda: sdk.db[RUNS].find_one({"_id": scope.run_id}, {"tenant": 1}), sdk.availability)
    made = new_address(
        secrets.token_bytes(REPLY_TOKEN_BYTES),
        sdk.mail_domain,
        thread_id=scope.thread_id,
        tenant=run["tenant"] if run else "",
        recipient=recipient,
        until=in_milliseconds(now() + expires),
        events=[event],
    )
    await ReplyAddresses(sdk.db, sdk.availability).store(made.document)
    return made.address
