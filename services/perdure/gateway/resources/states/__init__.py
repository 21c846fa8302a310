"""States of threads: read from the checkpoint store, shown in the Agent Server's shape."""

from perdure.gateway.resources.states.reader import States
from perdure.gateway.resources.states.resource import StatesResource
from perdure.gateway.stores.waits import questions

__all__ = ["States", "StatesResource", "questions"]
