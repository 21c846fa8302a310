"""States of threads: read from the checkpoint store, shown in the Agent Server's shape, and changed by workers."""

from perdure.gateway.resources.states.reader import States
from perdure.gateway.resources.states.resource import UPDATE, StatesResource
from perdure.gateway.resources.states.updating import StateUpdates, Update
from perdure.gateway.stores.waits import questions

__all__ = ["UPDATE", "StateUpdates", "States", "StatesResource", "Update", "questions"]
