"""The command line ``perdure``: the local stack, topics, and the HTTP API, one file per command group.

Contract: results go to stdout, everything else (progress, notes, errors) to stderr; with ``--json`` stdout holds JSON
and nothing else. Exit status: 0 done, 1 the command failed, 2 it was used wrongly, 130 interrupted. Colours only on a
terminal. Scope: talks to a gateway over HTTP like any client; only ``topics``, ``up`` and ``dev`` speak to the servers
themselves.
"""
