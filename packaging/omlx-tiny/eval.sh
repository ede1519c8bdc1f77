#!/usr/bin/env bash
# `make eval-tiny`: starts the daemon on a free port in a folder of its own, measures the bundled model
# through it with evaluate.py (which gets the arguments), and stops it. Fails when a target is missed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

base=$(mktemp -d "${TMPDIR:-/tmp}/omlx-eval.XXXXXX")
daemon=
finish() {
    local status=$?
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" || true
        [ "$status" = 0 ] || tail -n 5 "$base/daemon.log" >&2
    fi
    rm -rf "$base"
    exit "$status"
}
trap finish EXIT

"${OMLXD:-target/release/omlxd}" serve --base-dir "$base" --port 0 2>"$base/daemon.log" &
daemon=$!
for _ in $(seq 200); do
    [ -f "$base/run/omlxd.json" ] && break
    kill -0 "$daemon" 2>/dev/null || { echo "omlxd did not start:" >&2; exit 1; }
    sleep 0.05
done
[ -f "$base/run/omlxd.json" ] || { echo "omlxd was not ready within 10 seconds" >&2; exit 1; }

url=http://$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["http"])' "$base/run/omlxd.json")
key=$("${OMLXCTL:-target/release/omlxctl}" --base-dir "$base" key show)
python3 packaging/omlx-tiny/evaluate.py --base-url "$url" --api-key "$key" "$@"
