"""The service itself: alive, ready, metrics, the API description."""

from perdure.gateway.resources.system.conditions import KAFKA_TIMEOUT_S, Conditions
from perdure.gateway.resources.system.resource import SystemResource, installed_version

__all__ = ["KAFKA_TIMEOUT_S", "Conditions", "SystemResource", "installed_version"]
