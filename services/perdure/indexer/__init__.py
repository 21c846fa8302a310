"""The indexer: the only writer of OpenSearch; every state change becomes a document (Faust).

Rooms: ``stream`` (Faust: from Kafka to batches, acknowledged when durable), ``handlers`` (a batch: decode, redact, write),
``domain`` and ``redaction`` (pure), ``writer`` and ``bulk`` (OpenSearch, waits out every outage), ``indices`` (templates,
aliases, rollover), ``rebuild`` (everything again, from MongoDB).
"""
