# Sourced by every setup.sh. Where a peer lives: $HOME_OF_PEERS/<name>; nothing is installed outside it but Debian packages.
set -euo pipefail
export PIP_DISABLE_PIP_VERSION_CHECK=1
PEER=$(basename "$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)")
HERE=$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)
PEER_HOME=${PERDURE_PEERS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/perdure/peers}/$PEER
mkdir -p "$PEER_HOME"

missing() { # what is missing, in words: the run reports it as the reason why this peer did not run
    echo "missing: $*" >&2
    exit 3
}

venv() { # venv PYTHON PACKAGES...: the peer's own virtual environment
    local python=$1
    shift
    command -v "$python" >/dev/null && "$python" -c 'import venv' 2>/dev/null || missing "$python with its venv module"
    [ -x "$PEER_HOME/venv/bin/python" ] || "$python" -m venv "$PEER_HOME/venv"
    "$PEER_HOME/venv/bin/python" -m pip install --quiet "$@" psutil==7.2.2
}

postgresql() { # PostgreSQL's programs; the driver starts a cluster of its own for each run
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 && return
    command -v pg_ctl >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -qq -y postgresql >/dev/null
    else
        missing "PostgreSQL (on Debian and Ubuntu: apt-get install postgresql)"
    fi
}
