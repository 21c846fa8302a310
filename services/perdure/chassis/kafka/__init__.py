"""Kafka through librdkafka: the path that must not lose. The only importer of confluent-kafka.

Rooms: ``settings`` (addresses and security), ``clients`` (constructs clients), ``producer`` (idempotent, never gives up), ``raw``
(consuming with a manual offset store), ``consumer`` (the same, decoded, with dead letters), ``admin`` (topics apply).
"""
