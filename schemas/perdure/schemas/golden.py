"""Golden files: one recorded record per message type and version, append only, readable for ever.

Contract: ``schemas/golden/<type>.v<version>[.<case>].json`` holds key, headers and value as they were written to Kafka;
``SHA256SUMS`` beside them (the format of ``sha256sum``) holds their digests, so that a changed file is noticed.
:func:`problems` says everything that is wrong; ``make check`` runs it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

from perdure.schemas.catalogue import ALL, Types, file_stem
from perdure.schemas.envelope import Decoded, Record, UndecodableError, decode, encode

FOLDER: Final = "schemas/golden"
SUMS: Final = "SHA256SUMS"


def dump(record: Record) -> bytes:
    """A record as a golden file."""
    value = {
        "key": record.key.decode(),
        "headers": [[name, value.decode()] for name, value in record.headers],
        "value": record.value.decode(),
    }
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def load(data: bytes) -> Record:
    """The record of a golden file."""
    value = json.loads(data)
    headers = [(name, text.encode()) for name, text in value["headers"]]
    return Record(value["key"].encode(), value["value"].encode(), headers)


def encode_again(decoded: Decoded) -> Record:
    """What today's code would write for a decoded record."""
    envelope = decoded.envelope
    return encode(
        decoded.message,
        id=envelope.id,
        source=envelope.source,
        correlation_id=envelope.correlation_id,
        causation_id=envelope.causation_id,
        traceparent=envelope.traceparent,
        time=envelope.time,
    )


def files(folder: Path) -> dict[str, bytes]:
    """The golden files by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.json"))}


def sums(folder: Path) -> dict[str, str]:
    """The recorded digests by file name."""
    path = folder / SUMS
    lines = path.read_text().splitlines() if path.exists() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def problems(folder: Path, types: Types = ALL) -> list[str]:
    """What is wrong with the golden files in ``folder``; empty when nothing is."""
    found = files(folder)
    recorded = sums(folder)
    wrong = [f"{name} is gone; golden files are append only" for name in sorted(recorded.keys() - found.keys())]
    wrong += [
        f"{file_stem(message)}.json is missing: record one message of this type and version"
        for message in types.values()
        if not any(name.startswith(f"{file_stem(message)}.") for name in found)
    ]
    for name, data in found.items():
        if name not in recorded:
            wrong.append(f"{name} is not in {SUMS}")
        elif hashlib.sha256(data).hexdigest() != recorded[name]:
            wrong.append(f"{name} was changed; golden files are append only. Restore it and record another case")
        wrong += [f"{name}: {problem}" for problem in _unreadable(name, data, types)]
    return wrong


def _unreadable(name: str, data: bytes, types: Types) -> list[str]:
    record = load(data)
    try:
        decoded = decode(record.headers, record.value, types)
    except UndecodableError as error:
        return [f"today's code cannot read it ({error})"]
    if not name.startswith(f"{file_stem(type(decoded.message))}."):
        return ["its name does not say its type and version"]
    again = encode_again(decoded)
    if decode(again.headers, again.value, types) != decoded:
        return ["what today's code writes for it is read as something else"]
    lost = _lost(json.loads(record.value), json.loads(again.value))
    return [f"today's code changes or loses {path}" for path in lost]


def _lost(before: object, after: object, path: str = "") -> list[str]:
    """Paths of the recorded value that the new one lacks or has otherwise; what is new does not count."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            lost
            for key, value in before.items()
            for lost in (_lost(value, after[key], f"{path}/{key}") if key in after else [f"{path}/{key}"])
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [lost for i, pair in enumerate(zip(before, after, strict=True)) for lost in _lost(*pair, f"{path}/{i}")]
    return [] if before == after else [path or "/"]
