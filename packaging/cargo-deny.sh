#!/usr/bin/env bash
# Runs cargo-deny, installing the pinned version first where it is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VERSION=0.20.2

if [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $VERSION" ]; then
    echo "installing cargo-deny $VERSION (a few minutes, once a machine)"
    # A debug build: it compiles in a third of the time and runs for a second.
    CARGO_TARGET_DIR="$PWD/target/cargo-deny" cargo install --quiet --debug --locked --force \
        "cargo-deny@$VERSION" || {
        echo "cargo-deny did not install: is crates.io reachable?" >&2
        exit 1
    }
    rm -rf target/cargo-deny
fi
exec cargo deny "$@"
