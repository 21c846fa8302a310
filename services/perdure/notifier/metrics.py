"""Prometheus metrics of the notifier."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

ACCEPTED = Counter("perdure_notifier_accepted", "Deliveries stored, repeats not counted", ["kind"])
ATTEMPTS = Counter("perdure_notifier_attempts", "Attempts to deliver, by channel and outcome", ["channel", "outcome"])
LATENCY = Histogram(
    "perdure_notifier_attempt_seconds",
    "How long attempts took, by channel",
    ["channel"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60),
)
DELAY = Histogram(
    "perdure_notifier_delay_seconds",
    "From the moment a notice was first due to its delivery",
    buckets=(0.1, 0.5, 1, 5, 15, 60, 600, 3600, 21600, 86400),
)
SENDING = Gauge("perdure_notifier_sending", "Deliveries that are being sent at this moment")
BROKEN = Gauge("perdure_notifier_broken_endpoints", "Endpoints that are left alone because they failed")
