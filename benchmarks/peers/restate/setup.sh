#!/usr/bin/env bash
# Restate: the server's binary from npm, the agents in Python under hypercorn.
. "$(dirname "$0")/../lib.sh"
command -v npm >/dev/null || missing "npm"
venv python3 restate-sdk==1.3.0 hypercorn==0.18.0 aiohttp==3.14.5
case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) server=linux-x64 ;;
    Linux-aarch64) server=linux-arm64 ;;
    Darwin-arm64) server=darwin-arm64 ;;
    *) missing "a Restate server for $(uname -s) on $(uname -m)" ;;
esac
npm install --prefix "$PEER_HOME" --no-audit --no-fund --silent "@restatedev/restate-server-$server@1.7.12"
ln -sf "node_modules/@restatedev/restate-server-$server/bin/restate-server" "$PEER_HOME/restate-server"
