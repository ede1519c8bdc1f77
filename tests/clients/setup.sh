#!/bin/sh
# Installs the official clients that the tests use: .venv/clients (Python) and
# tests/clients/node/node_modules. Idempotent; needs the network only when a pin changed.
set -eu
cd "$(dirname "$0")/../.."

missing() {
    echo "tests/clients/setup.sh: $1 is missing; install it to run the client tests" >&2
    exit 1
}
command -v python3 >/dev/null || missing "python3 (3.10 or newer)"
command -v npm >/dev/null || missing "node with npm (20 or newer)"

pins=tests/clients/python/requirements.txt
stamp=.venv/clients/requirements.done
if ! cmp -s "$pins" "$stamp"; then
    python3 -m venv .venv/clients
    .venv/clients/bin/python -m pip install --quiet --disable-pip-version-check -r "$pins"
    cp "$pins" "$stamp"
fi

lock=tests/clients/node/package-lock.json
stamp=tests/clients/node/node_modules/lock.done
if ! cmp -s "$lock" "$stamp"; then
    npm ci --prefix tests/clients/node --ignore-scripts --no-audit --no-fund --loglevel=error
    cp "$lock" "$stamp"
fi
