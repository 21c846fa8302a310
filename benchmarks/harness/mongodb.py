"""How much a MongoDB database holds."""

from __future__ import annotations

from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database


def bson_bytes(database: Database[Any]) -> int:
    """BSON bytes of all documents: without indexes and padding, so the same on every server and disk."""
    options: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
    raw = database.with_options(codec_options=options)
    return sum(len(document.raw) for name in raw.list_collection_names() for document in raw[name].find({}))
