#!/usr/bin/env bash
# Temporal: the production server, built from its Go module (about five minutes on two cores), on PostgreSQL; the agents in Python.
. "$(dirname "$0")/../lib.sh"
command -v go >/dev/null || missing "go"
postgresql
venv python3 temporalio==1.35.0
export GOBIN=$PEER_HOME/bin GOFLAGS="-p=${GO_JOBS:-2}"
[ -x "$GOBIN/server" ] || go install go.temporal.io/server/cmd/server@v1.31.2
[ -x "$GOBIN/sql" ] || go install go.temporal.io/server/cmd/tools/sql@v1.31.2
