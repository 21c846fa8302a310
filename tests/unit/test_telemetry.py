"""What is in a log record, whoever makes it, and that a record is never lost for what it holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

SETUP = """
import asyncio, logging
import structlog
from perdure.chassis.settings import ServiceSettings
from perdure.chassis.telemetry import add_to_logs, configure_logging, logger
configure_logging("test", ServiceSettings())
"""


def logged(code: str) -> list[dict[str, Any]]:
    """The records of a process that logs, as logging is configured once in a process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    script = SETUP + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_fields_of_the_context_are_in_every_record_of_it() -> None:
    records = logged("""
        made = []
        def fields():
            made.append(1)
            return {"thread_id": "t", "node": "n"}

        async def run():
            add_to_logs(fields)
            assert not made
            logger("ours").info("ours", node="own")
            structlog.get_logger().info("theirs")
            logging.getLogger("plain").info("plain %s", 1)
            await asyncio.to_thread(logging.getLogger("plain").info, "aside")
            await asyncio.create_task(child())

        async def child():
            logging.getLogger("plain").info("child")

        async def main():
            await asyncio.create_task(run())
            logger("ours").info("outside")

        asyncio.run(main())
    """)
    assert [one["event"] for one in records] == ["ours", "theirs", "plain 1", "aside", "child", "outside"]
    assert [one.get("node") for one in records] == ["own", "n", "n", "n", "n", None]
    assert {one.get("thread_id") for one in records[:-1]} == {"t"}
    assert "thread_id" not in records[-1]
    assert {one["service"] for one in records} == {"test"}
    assert [one["logger"] for one in records[0:3:2]] == ["ours", "plain"]


def test_a_record_is_never_lost() -> None:
    records = logged("""
        class Odd:
            def __repr__(self):
                return "<odd>"
        log = logger("ours")
        log.info("odd", value=Odd(), number=2 ** 70, text="\\ud800", keys={(1, 2): 3, 4: 5}, items={1, 2})
        logging.getLogger("plain").info("%s", Odd())
        try:
            1 / 0
        except ZeroDivisionError:
            log.exception("ours")
            logging.getLogger("plain").exception("plain")
    """)
    assert (records[0]["event"], records[0]["number"]) == ("odd", 2**70)
    assert "<odd>" in (records[0]["value"], records[1]["event"])
    for one in records[2:]:
        assert one["exception"].splitlines()[-1] == "ZeroDivisionError: division by zero"
        assert one["level"] == "error"


@pytest.mark.parametrize("name", ["httpx", "httpcore", "pymongo", "aiokafka"])
def test_libraries_that_log_every_request_are_quiet(name: str) -> None:
    records = logged(f"""
        logging.getLogger("{name}").info("HTTP Request")
        logging.getLogger("{name}").warning("wrong")
    """)
    assert [one["event"] for one in records] == ["wrong"]


def test_the_console_format_is_plain_text() -> None:
    script = SETUP + 'logger("ours").info("hello", a=1)'
    environment = {**os.environ, "PERDURE_LOG_FORMAT": "console"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "hello" in done.stderr
    assert "a=1" in done.stderr
    assert not done.stderr.startswith("{")
