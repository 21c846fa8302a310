"""Following runs: waiting for their ends."""
