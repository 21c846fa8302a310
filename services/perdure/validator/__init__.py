"""Reads the world again right before a destructive act and says whether what the agent believed still holds (ADR 8)."""
