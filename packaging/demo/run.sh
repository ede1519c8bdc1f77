#!/usr/bin/env bash
# `make run`: starts the daemon on the bundled model in a folder of its own, asks it something through
# the official OpenAI client, shows what it did, and stops it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

base=$(mktemp -d "${TMPDIR:-/tmp}/omlx-demo.XXXXXX")
daemon=
finish() {
    local status=$?
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" || status=$?
        [ "$status" = 0 ] || tail -n 20 "$base/daemon.log" >&2
    fi
    rm -rf "$base"
    exit "$status"
}
trap finish EXIT

start() {
    target/release/omlxd serve --base-dir "$base" --port 0 2>>"$base/daemon.log" &
    daemon=$!
    for _ in $(seq 200); do
        [ -f "$base/run/omlxd.json" ] && return
        kill -0 "$daemon" 2>/dev/null || { echo "omlxd did not start:" >&2; exit 1; }
        sleep 0.05
    done
    echo "omlxd was not ready within 10 seconds" >&2
    exit 1
}
ask() {
    .venv/clients/bin/python packaging/demo/ask.py \
        "$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["http"])' "$base/run/omlxd.json")" \
        "$(ctl key show)" "$@"
}
ctl() { target/release/omlxctl --base-dir "$base" "$@"; }
start
echo "== omlxctl status"
ctl status
echo
ask
echo
echo "== omlxctl ps"
ctl ps
echo
echo "== stopped and started again: the long prompt comes from SSD"
kill "$daemon"
wait "$daemon"
start
ask again
