"""Dead letters: records that no service could take (ADR 11)."""

from perdure.gateway.resources.dead_letters.resource import DeadLettersResource
from perdure.gateway.resources.dead_letters.store import DeadLetterStore

__all__ = ["DeadLetterStore", "DeadLettersResource"]
