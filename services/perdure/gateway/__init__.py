"""The HTTP API. Registers threads and runs, publishes commands, reads states and the index. Never imports user code."""
