#!/usr/bin/env bash
# LangGraph with PostgresSaver.
. "$(dirname "$0")/../lib.sh"
postgresql
venv python3 langgraph==1.2.22 langgraph-checkpoint==4.3.2 langgraph-checkpoint-postgres==3.2.0 'psycopg[binary,pool]==3.3.9'
