#!/usr/bin/env bash
# `make run`: starts the daemon on the bundled model in a folder of its own, asks it something through
# the official OpenAI client, shows what it did, and stops it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

. packaging/daemon.sh
ask() {
    .venv/clients/bin/python packaging/demo/ask.py \
        "$(daemon_address)" "$(ctl key show)" "$@"
}
ctl() { target/release/omlxctl --base-dir "$base" "$@"; }
start_daemon
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
start_daemon
ask again
