"""What agent authors may import: waits, final validation and guarded effects. Everything else of a graph is plain LangGraph."""

from perdure.sdk.errors import EffectError, OutsidePerdure, SdkError, WaitError
from perdure.sdk.waits import (
    Answered,
    Ask,
    Event,
    Expired,
    Received,
    Slept,
    TimedOut,
    Timer,
    WaitResult,
    ask_human,
    sleep_for,
    sleep_until,
    wait_any,
    wait_for_event,
)

__all__ = [
    "Answered",
    "Ask",
    "EffectError",
    "Event",
    "Expired",
    "OutsidePerdure",
    "Received",
    "SdkError",
    "Slept",
    "TimedOut",
    "Timer",
    "WaitError",
    "WaitResult",
    "ask_human",
    "sleep_for",
    "sleep_until",
    "wait_any",
    "wait_for_event",
]
