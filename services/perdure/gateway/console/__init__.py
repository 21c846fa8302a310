"""The console: pages that show what goes on, for people."""
