"""Threads: make, read, search, count, change, copy, delete, prune."""

from perdure.gateway.resources.threads.changes import ThreadChanges, ThreadChangesResource
from perdure.gateway.resources.threads.resource import ThreadsResource
from perdure.gateway.resources.threads.searching import ThreadSearching

__all__ = ["ThreadChanges", "ThreadChangesResource", "ThreadSearching", "ThreadsResource"]
