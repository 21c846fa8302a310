"""Threads: make, read, search and count."""

from perdure.gateway.resources.threads.resource import ThreadsResource
from perdure.gateway.resources.threads.searching import ThreadSearching

__all__ = ["ThreadSearching", "ThreadsResource"]
