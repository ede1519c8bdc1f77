# shellcheck shell=bash
# For scripts that need a daemon of their own on the bundled model: source it at the root of the
# checkout, then `start_daemon`. It gets a folder of its own, $base, and a free port; $daemon is its
# process. At the script's end it is stopped, and its log's end is shown when something failed.

base=$(mktemp -d "${TMPDIR:-/tmp}/omlx.XXXXXX")
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

# OMLXD names another binary.
start_daemon() {
    "${OMLXD:-target/release/omlxd}" serve --base-dir "$base" --port 0 2>>"$base/daemon.log" &
    daemon=$!
    for _ in $(seq 200); do
        [ -f "$base/run/omlxd.json" ] && return
        kill -0 "$daemon" 2>/dev/null || { echo "omlxd did not start:" >&2; exit 1; }
        sleep 0.05
    done
    echo "omlxd was not ready within 10 seconds" >&2
    exit 1
}

# host:port of the daemon.
daemon_address() {
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["http"])' "$base/run/omlxd.json"
}
