"""What measures every system in the same way. Standard library and psutil only: it runs in each peer's own environment."""
