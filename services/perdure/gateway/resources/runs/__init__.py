"""Runs: start, read, wait for, retry, cancel."""

from perdure.gateway.resources.runs.joining import Joiner
from perdure.gateway.resources.runs.resource import RunsResource
from perdure.gateway.resources.runs.retrying import Retrier
from perdure.gateway.resources.runs.starting import Starter
from perdure.gateway.resources.runs.streaming import RunStreams

__all__ = ["Joiner", "Retrier", "RunStreams", "RunsResource", "Starter"]
