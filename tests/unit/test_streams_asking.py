"""Workers are asked to tell what is read and what they do not tell already."""

from __future__ import annotations

from typing import Any, cast

import pytest

from perdure.chassis.kafka.producer import Producer
from perdure.gateway.streams.asking import Asking
from perdure.schemas.commands import COMMANDS, StreamRun
from perdure.schemas.envelope import Record, decode

RUN = {"_id": "run", "thread_id": "thread", "tenant": "default", "status": "running"}


class Records:
    def __init__(self) -> None:
        self.sent: list[StreamRun] = []

    def produce(self, topic: str, record: Record, *_: Any) -> None:
        assert topic == "perdure.commands"
        assert record.key == b"thread"
        message = decode(cast("Any", record.headers), record.value, COMMANDS).message
        assert isinstance(message, StreamRun)
        self.sent.append(message)


@pytest.mark.parametrize(
    ("wanted", "subgraphs", "started", "asked"),
    [
        ({"values", "updates"}, False, {}, None),
        ({"values", "custom"}, False, {}, ("custom",)),
        ({"messages"}, False, {"modes": ["messages-tuple"]}, None),
        ({"messages", "events"}, False, {"modes": ["messages-tuple"]}, ("events", "messages")),
        ({"custom"}, True, {"modes": ["custom"]}, ("custom",)),
        ({"custom"}, True, {"modes": ["custom"], "subgraphs": True}, None),
        ({"values"}, True, {}, None),
    ],
)
def test_what_is_asked(wanted: set[str], subgraphs: bool, started: dict[str, Any], asked: Any) -> None:
    records = Records()
    asking = Asking(cast("Producer", records))
    asking.ask(RUN, frozenset(wanted), subgraphs=subgraphs, started=started, seq=0)
    assert [(one.run_id, one.modes, one.subgraphs) for one in records.sent] == (
        [] if asked is None else [("run", asked, subgraphs)]
    )


def test_many_readers_ask_once_and_once_more_of_the_next_owner() -> None:
    records = Records()
    asking = Asking(cast("Producer", records))
    for seq in (0, 0, 7, 7):
        asking.ask(RUN, frozenset({"custom"}), subgraphs=False, started={}, seq=seq)
    asking.ask({**RUN, "status": "success"}, frozenset({"custom"}), subgraphs=False, started={}, seq=9)
    assert len(records.sent) == 2
