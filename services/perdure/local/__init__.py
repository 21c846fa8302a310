"""The local stack: real Kafka, OpenSearch and a MongoDB-compatible server without Docker, Java or Maven.

Contract: :class:`perdure.local.stack.Stack` fetches the servers by package coordinates (pinned versions and checksums),
starts them as child processes with health checks, keeps their data, and stops only what it started.
:mod:`perdure.local.services` does the same for Perdure's own services, :mod:`perdure.local.dev` for one user's project.

Scope: laptops, tests and CI. Outside: production (use the servers that you operate; name them in
``PERDURE_KAFKA_BOOTSTRAP_SERVERS``, ``PERDURE_MONGODB_URI`` and ``PERDURE_OPENSEARCH_URL``).
The client libraries are not imported here: health checks speak the first bytes of each protocol themselves.
"""
