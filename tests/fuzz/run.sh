#!/usr/bin/env bash
# `make fuzz`: every fuzz target for FUZZ_SECS seconds. Arguments name some of them, as omlxd/request.
# What is found lies in <package>/fuzz/artifacts, what was learnt in <package>/fuzz/corpus; git ignores both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() { printf 'fuzz: error: %s\n' "$*" >&2; exit 1; }

cargo +nightly --version >/dev/null 2>&1 ||
    fail "nightly Rust is missing: rustup toolchain install nightly --profile minimal"
cargo fuzz --version >/dev/null 2>&1 ||
    fail "cargo-fuzz is missing: cargo +stable install --locked cargo-fuzz"

targets=("$@")
[ $# -gt 0 ] || targets=(kvstore/header kvstore/index engine/output engine/template engine/tokenizer omlxd/request omlxd/events)

# cargo-fuzz sets RUSTFLAGS, and then cargo leaves out those of .cargo/config.toml, which link MLX on Linux.
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
flags=$(cargo +nightly -Zunstable-options config get --format json-value "target.$host.rustflags" 2>/dev/null |
    python3 -c 'import json, sys; print(*json.load(sys.stdin))' 2>/dev/null) || flags=
export RUSTFLAGS="${RUSTFLAGS:+$RUSTFLAGS }$flags"
# One for all, so that they share what they depend on.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/fuzz}

for target in "${targets[@]}"; do
    package=${target%/*}
    [ -f "$package/fuzz/fuzz_targets/${target#*/}.rs" ] || fail "there is no target $target"
    # Inputs are long from the start: bytes are choices here, and a few of them change nothing. omlxd's are
    # used up by then.
    limits=(-len_control=0)
    [ "$package" != omlxd ] || limits+=(-max_len=512)
    (cd "$package" && cargo +nightly fuzz run "${target#*/}" -- "${limits[@]}" -print_final_stats=1 \
        "-max_total_time=${FUZZ_SECS:-300}") ||
        fail "$target failed: if an input made it, that is in $package/fuzz/artifacts"
done
