"""The notebook: LangGraph's checkpoints on MongoDB. Usable on its own in any LangGraph program.

``PerdureSaver`` is the checkpointer. ``RunScope`` is what an executor adds to make histories linear under several
workers.
"""

from perdure.checkpoint.saver import PerdureSaver
from perdure.checkpoint.scope import SCOPE_KEY, RunScope

__all__ = ["SCOPE_KEY", "PerdureSaver", "RunScope"]
