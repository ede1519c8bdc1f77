#!/bin/sh
# The benchmark of `make bench`, which has built the binaries. See docs/testing.md.
set -eu
cd "$(dirname "$0")/../.."
tests/oracle/setup.sh
status=0
# Arguments name models; then only those are run.
[ $# -gt 0 ] || cargo bench -p kvstore --locked || status=1
target/release/omlx-bench "$@" || status=1
exit $status
