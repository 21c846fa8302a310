"""From LangGraph's config to the place of a checkpoint, and back. Pure."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig

from perdure.checkpoint import keys
from perdure.checkpoint.documents import Place
from perdure.checkpoint.scope import SCOPE_KEY


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


def owned_config(config: RunnableConfig, place: Place) -> RunnableConfig:
    """As :func:`config_of`, with the scope of the run that stored the checkpoint.

    LangGraph's ``bulk_update_state`` goes on from this config to the next superstep.
    """
    named: dict[str, Any] = {**config_of(place)["configurable"], SCOPE_KEY: config["configurable"][SCOPE_KEY]}
    return {"configurable": named, "metadata": config.get("metadata") or {}}


def config_of(place: Place) -> RunnableConfig:
    """The config that names a checkpoint."""
    return {
        "configurable": {
            "thread_id": place.thread,
            "checkpoint_ns": place.ns,
            "checkpoint_id": place.checkpoint_id,
        }
    }
