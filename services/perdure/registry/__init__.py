"""What gateway, agent-step and scheduler share about runs and waits: documents, start commands, waits, signals (ADR 6)."""
