"""The only executor: claims a run, runs its supersteps with LangGraph, checkpoints each one, hibernates or finishes."""
