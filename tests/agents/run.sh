#!/bin/sh
# Installs the coding agents (1.2 GB, from npm) into OMLX_AGENTS_DIR, target/agents by default, and runs
# each against the daemon. They talk to loopback only. OMLX_AGENTS_RECORD=1 renews tests/fixtures/agents.
set -eu
cd "$(dirname "$0")/../.."

command -v npm >/dev/null || {
    echo "tests/agents/run.sh: npm is missing; install node 20 or newer" >&2
    exit 1
}
dir=${OMLX_AGENTS_DIR:-$PWD/target/agents}
mkdir -p "$dir"
if ! cmp -s tests/agents/package-lock.json "$dir/lock.done"; then
    cp tests/agents/package.json tests/agents/package-lock.json "$dir"
    npm ci --prefix "$dir" --no-audit --no-fund --loglevel=error
    cp tests/agents/package-lock.json "$dir/lock.done"
fi
cargo build --locked --bins
OMLX_AGENTS_DIR=$dir cargo test -p omlx-tests --locked --test agents -- --ignored --nocapture --test-threads 1
