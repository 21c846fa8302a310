"""The only writer of OpenSearch: every state change becomes a document (Faust)."""
