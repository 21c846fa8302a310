"""Recovers what dead processes left behind: expired leases, unpublished commands and events. One leader at a time."""
