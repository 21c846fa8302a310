"""From LangGraph's config to the place of a checkpoint, and back. Pure."""

from __future__ import annotations

from langchain_core.runnables import RunnableConfig

from perdure.checkpoint import keys
from perdure.checkpoint.documents import Place


def place_of(config: RunnableConfig, checkpoint_id: str) -> Place:
    """The place that ``config`` and a checkpoint id name.

    Raises:
        InvalidId: One of them cannot be part of a key.

    """
    conf = config["configurable"]
    return Place(
        keys.checked("thread id", conf["thread_id"]),
        keys.checked("checkpoint namespace", conf.get("checkpoint_ns", ""), empty=True),
        keys.checked("checkpoint id", checkpoint_id),
    )


def config_of(place: Place) -> RunnableConfig:
    """The config that names a checkpoint."""
    return {
        "configurable": {
            "thread_id": place.thread,
            "checkpoint_ns": place.ns,
            "checkpoint_id": place.checkpoint_id,
        }
    }
