"""The ``perdure`` command: the local stack, the client and the operator's tools."""
