#!/usr/bin/env bash
# Makes the real MLX usable by the unmodified mlx-rs crate on Linux x86-64. See README.md beside it.
# Idempotent: what is there is kept, so a second run needs no network. Everything lands in .mlx/ and
# in the generated .cargo/mlx-linux.toml; nothing is installed outside the checkout but the Debian
# packages named in need_packages.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
mlx_dir="$root/.mlx"

MLX_VERSION=0.32.2   # what mlx-sys pins: check with each upgrade of mlx-rs

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# The C library of clang that bindgen loads; libclang-cpp.so, which LLVM's own packages bring, is another.
LIBCLANG='/usr/lib/llvm-*/lib/libclang[-.][0-9s]*'

[ "$(uname -s)" = Linux ] || { say "nothing to prepare on $(uname -s): mlx-sys builds MLX with Metal"; exit 0; }
[ "$(uname -m)" = x86_64 ] || fail "MLX's CPU wheel is used on x86-64 only, and this is $(uname -m)"

need() { command -v "$1" >/dev/null || fail "'$1' is missing: $2"; }

need_packages() {
    local missing=() path
    for pair in "$@"; do
        path=${pair#*=}
        # shellcheck disable=SC2086 -- the pattern must expand
        compgen -G "$path" >/dev/null || missing+=("${pair%%=*}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    if ! command -v apt-get >/dev/null || { [ -n "$sudo" ] && ! command -v sudo >/dev/null; }; then
        fail "these packages are missing: ${missing[*]}. Install them (Debian names) and run this again"
    fi
    say "installing ${missing[*]}"
    $sudo apt-get update -qq || fail "apt-get update failed: is the Debian mirror reachable?"
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
        >/dev/null || fail "apt-get could not install ${missing[*]}"
}

# Runs a step once: its stamp names all that it depends on.
step() {
    local stamp="$mlx_dir/stamps/$1" key=$2
    shift 2
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ] && return
    "$@"
    mkdir -p "$mlx_dir/stamps"
    printf '%s' "$key" >"$stamp"
}

fetch_wheel() {
    say "fetching MLX $MLX_VERSION (CPU) from PyPI"
    rm -rf "$mlx_dir/wheel"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$mlx_dir/wheel" \
        "mlx-cpu==$MLX_VERSION" || fail "pip could not install mlx-cpu==$MLX_VERSION: is PyPI reachable?"
}

build_mlx_c() {
    say "building mlx-c"
    local out="$mlx_dir/lib"
    mkdir -p "$out/objects"
    # The same sources as mlx-c's CMakeLists.txt for a system MLX without Metal or CUDA.
    find "$mlx_c/mlx/c" -maxdepth 1 -name '*.cpp' -print0 | xargs -0 -P "$(nproc)" -I{} sh -c '
        exec c++ -std=c++20 -O2 -fPIC -w -include "$1/compat.h" -I"$2" -I"$3/wheel/mlx/include" \
            -c "$4" -o "$3/lib/objects/$(basename "$4" .cpp).o"' _ "$here" "$mlx_c" "$mlx_dir" {} \
        || fail "mlx-c did not compile"
    ar rcs "$out/libmlxc.a" "$out"/objects/*.o
    rm -rf "$out/objects"
}

build_compat() {
    local out="$mlx_dir/lib" name
    rm -f "$out/libomlxcompat.a"
    for name in compat few_rows; do
        cc -O2 -Wall -Wextra -fPIC -c "$here/$name.c" -o "$out/$name.o" || fail "$name.c did not compile"
        ar rcs "$out/libomlxcompat.a" "$out/$name.o"
        rm "$out/$name.o"
    done
}

make_bindings() {
    say "generating bindings"
    mkdir -p "$mlx_dir/bindings"
    local all="$mlx_dir/bindings/all.h" libclang sizes=()
    (cd "$mlx_c" && printf '#include "%s"\n' mlx/c/*.h) >"$all"
    libclang=$(dirname "$(compgen -G "$LIBCLANG" | sort -V | tail -n 1)")
    # Releases before 0.61 make size_t another type than usize unless they are told not to.
    if bindgen --help | grep -q -e ' --size_t-is-usize'; then sizes=(--size_t-is-usize); fi
    LIBCLANG_PATH=$libclang bindgen "$all" "${sizes[@]}" \
        --blocklist-function malloc --blocklist-function realloc --blocklist-type float16_t \
        --raw-line '#[repr(C)] #[derive(Clone, Copy, Debug, Default)] pub struct float16_t(pub u16);' \
        -o "$mlx_dir/bindings/bindings.rs" -- -DOMLX_BINDGEN -include "$here/compat.h" -I"$mlx_c" \
        || fail "bindgen failed on mlx-c's headers"
}

write_cargo_override() {
    local target=x86_64-unknown-linux-gnu file="$root/.cargo/mlx-linux.toml" text
    # cargo does not look into the static libraries; `compat` tells it that they are others. It stands apart
    # because cargo takes the variables of rustc-env in any order, and builds again when it is another one.
    # OpenBLAS is linked into the executable so that its cblas_sgemm is found before the slow
    # reference BLAS of the wheel.
    text=$(cat <<EOF
# Written by packaging/linux/setup.sh. Do not edit: run it again.
[target.$target]
rustflags = [
    "-C", "link-arg=-Wl,-rpath,$mlx_dir/wheel/mlx/lib",
    "-C", "link-arg=-Wl,--no-as-needed",
    "-C", "link-arg=-lopenblas",
]

[target.$target.mlx]
rustc-link-search = ["native=$mlx_dir/lib", "native=$mlx_dir/wheel/mlx/lib"]
rustc-link-lib = ["static=mlxc", "static=omlxcompat", "dylib=mlx", "dylib=stdc++"]
rustc-env = { OUT_DIR = "$mlx_dir/bindings" }
compat = "$compat"
EOF
    )
    # Left alone when equal, so that cargo does not rebuild.
    [ -f "$file" ] && [ "$(cat "$file")" = "$text" ] || printf '%s\n' "$text" >"$file"
}

need cargo "install Rust from https://rustup.rs"
need python3 "install Python 3.9 or later"
python3 -m pip --version >/dev/null 2>&1 || need_packages python3-pip=/usr/lib/python3/dist-packages/pip
need_packages \
    "g++=/usr/bin/g++" \
    "libfmt-dev=/usr/include/fmt/format.h" \
    "libopenblas-dev=/usr/lib/x86_64-linux-gnu/libopenblas.so" \
    "libclang-14-dev=$LIBCLANG" \
    "bindgen=/usr/bin/bindgen" \
    "ruby=/usr/bin/ruby"

cd "$root"
mlx_c=$(cargo metadata --format-version 1 --locked 2>/dev/null | python3 -c '
import json, os, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "mlx-sys":
        print(os.path.join(os.path.dirname(package["manifest_path"]), "src", "mlx-c"))
') || fail "cargo metadata failed: is crates.io reachable, and Cargo.lock committed?"
[ -d "$mlx_c" ] || fail "mlx-sys is not among the dependencies of this workspace"

mkdir -p "$mlx_dir"
header=$(cksum <"$here/compat.h")
compat=$(cat "$here"/{compat,few_rows}.c "$here/few_rows.h" | cksum)
step wheel "$MLX_VERSION" fetch_wheel
step mlx-c "$mlx_c $MLX_VERSION $header" build_mlx_c
step compat "$compat" build_compat
step bindings "$mlx_c $(bindgen --version) $header" make_bindings
write_cargo_override
say "MLX $MLX_VERSION is ready in .mlx/"
