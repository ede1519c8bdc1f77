#!/bin/sh
# The benchmark of `make bench`, which has built the binaries. See docs/testing.md.
set -eu
cd "$(dirname "$0")/../.."
tests/oracle/setup.sh
exec target/release/omlx-bench "$@"
