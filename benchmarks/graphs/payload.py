"""What agents say: random base64, different each time, so that it does not compress away.

Standard library only: every peer imports it.
"""

from __future__ import annotations

import base64
import os
import random
from typing import Any

STEPS = 5
"""Durable steps of a chain."""
MESSAGE_BYTES = 1024
"""Of one message of a chat."""
_ENVELOPE = 45
_TEXT = base64.b64encode(os.urandom(1 << 20)).decode()


def text(size: int) -> str:
    """``size`` characters, at most 1 MiB, different at each call."""
    offset = random.randrange(len(_TEXT) - size)
    return _TEXT[offset : offset + size]


def first_message(size: int) -> dict[str, Any]:
    """A message whose JSON has about ``size`` bytes."""
    return {"role": "user", "i": -1, "content": text(max(1, size - _ENVELOPE))}


def message(number: int, size: int = 200) -> dict[str, Any]:
    """What a step appends: about ``size`` bytes as JSON."""
    return {"role": "assistant", "i": number, "content": text(max(1, size - 40))}
