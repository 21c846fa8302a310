#!/usr/bin/env bash
# LangGraph with MongoDBSaver. The database is the one that Perdure is measured on; run.py starts it.
. "$(dirname "$0")/../lib.sh"
venv python3 langgraph==1.2.22 langgraph-checkpoint==4.3.2 langgraph-checkpoint-mongodb==0.5.1
