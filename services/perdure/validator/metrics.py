"""Prometheus metrics of the validator."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

OPEN = Gauge("perdure_validator_open", "Validations that are being checked at this moment")
VERDICTS = Counter("perdure_validator_verdicts", "Verdicts published, by outcome", ["outcome"])
REFUSED = Counter("perdure_validator_verdicts_refused", "Verdicts that Kafka refused for good")
READS = Histogram("perdure_validator_read_seconds", "Attempts to read a source, by kind of source", ["kind"])
FAILED_READS = Counter("perdure_validator_failed_reads", "Attempts that failed, by kind of source", ["kind"])
