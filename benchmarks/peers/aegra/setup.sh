#!/usr/bin/env bash
# Aegra, an open server of the LangGraph Agent Server API, on PostgreSQL.
. "$(dirname "$0")/../lib.sh"
postgresql
for python in python3.12 python3.13 python3.14 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9].*/bin/python3; do
    if "$python" -c 'import venv' 2>/dev/null; then
        venv "$python" aegra-api==0.11.0 langgraph==1.2.22 langgraph-sdk==0.4.14 aiohttp==3.14.5
        exit
    fi
done
missing "Python 3.12 or newer, which Aegra needs"
