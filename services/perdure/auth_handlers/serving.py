"""Answers the gateway's questions over the inherited socket, many at once, until the gateway ends."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from perdure.auth_handlers.handlers import Denied, Handlers
from perdure.chassis import json
from perdure.chassis.telemetry import logger
from perdure.schemas.auth_questions import LINE_LIMIT, AuthAnswer, AuthQuestion

log = logger(__name__)


async def serve(handlers: Handlers, connection: socket.socket) -> None:
    """Answer until the other end closes the socket; then end the process, whatever handlers still do."""
    reader, writer = await asyncio.open_connection(sock=connection, limit=LINE_LIMIT)
    answering: set[asyncio.Task[None]] = set()
    try:
        while line := await reader.readline():
            task = asyncio.create_task(_answer(handlers, line, writer))
            answering.add(task)
            task.add_done_callback(answering.discard)
    except ConnectionError:
        log.info("auth.gateway_gone")
    os._exit(0)  # a handler in a thread of its own would hold up an ordinary end


async def _answer(handlers: Handlers, line: bytes, writer: asyncio.StreamWriter) -> None:
    question: AuthQuestion = json.loads(line)
    answer: AuthAnswer = {"id": question["id"]}
    try:
        answer |= await _said(handlers, question, line)
        said = json.dumps(answer) if question["ask"] == "authenticate" else json.dumps_strict(answer)
    except Denied as denied:
        said = json.dumps({"id": question["id"], "refused": denied.answer})
    except Exception as error:
        log.exception("auth.handler_failed", ask=question["ask"], resource=question.get("resource"))
        said = json.dumps({"id": question["id"], "failed": f"{type(error).__name__}: {error}"})
    writer.write(said + b"\n")
    await writer.drain()


async def _said(handlers: Handlers, question: AuthQuestion, line: bytes) -> Any:
    if question["ask"] == "ping":
        return {"user": {}}
    if question["ask"] == "authenticate":
        return {"user": await handlers.authenticate(question["request"])}
    before: AuthQuestion = json.loads(line)
    value = question["value"]
    conditions, written = await handlers.authorize(question["user"], question["resource"], question["action"], value)
    changed = {
        name: value[name] for name in value if name not in before["value"] or before["value"][name] != value[name]
    }
    return {"filter": conditions, "changed": changed, "written": written}
