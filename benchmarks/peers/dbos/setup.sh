#!/usr/bin/env bash
# DBOS Transact for Python on PostgreSQL.
. "$(dirname "$0")/../lib.sh"
postgresql
venv python3 dbos==3.4.0 'psycopg[binary]==3.3.9'
