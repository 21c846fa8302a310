"""Batches: a graph over many inputs (ADR 14)."""

from perdure.gateway.resources.batches.creating import BatchCreator
from perdure.gateway.resources.batches.resource import BatchesResource
from perdure.gateway.resources.batches.results import Results
from perdure.gateway.resources.batches.store import BatchStore
from perdure.gateway.resources.batches.views import batch_view, item_view

__all__ = ["BatchCreator", "BatchStore", "BatchesResource", "Results", "batch_view", "item_view"]
