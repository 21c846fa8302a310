#!/usr/bin/env bash
# LangGraph's development server, which keeps everything in memory: a yardstick for streams only.
. "$(dirname "$0")/../lib.sh"
venv python3 "langgraph-cli[inmem]==0.4.40" langgraph-api==0.16.7 langgraph==1.2.22 aiohttp==3.14.5
