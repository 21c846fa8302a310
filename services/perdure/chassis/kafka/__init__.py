"""Kafka through librdkafka: the path that must not lose. The only importer of confluent-kafka.

Rooms: ``producer`` (idempotent, never gives up), ``consumer`` (manual offset store, dead letters), ``admin`` (topics apply).
"""
