#!/usr/bin/env bash
# `make eval-tiny`: starts the daemon on a free port in a folder of its own, measures the bundled model
# through it with evaluate.py (which gets the arguments), and stops it. Fails when a target is missed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

. packaging/daemon.sh
start_daemon
key=$("${OMLXCTL:-target/release/omlxctl}" --base-dir "$base" key show)
python3 packaging/omlx-tiny/evaluate.py --base-url "http://$(daemon_address)" --api-key "$key" "$@"
