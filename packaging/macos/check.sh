#!/usr/bin/env bash
# Compiles omlx for aarch64-apple-darwin on Debian 12 x86-64, without a Mac and without rustup's
# network. usage, after `make setup`: packaging/macos/check.sh [check|link|kernel|all]...
#
#   check   clippy over all targets with -D warnings, and the hand-written declarations of Apple's
#           system against its headers (default)
#   link    omlxd, omlxctl and all test executables, linked as Mach-O against MLX's macOS wheel
#   kernel  gated_delta.metal, as MLX completes it, run as C++ and compared with float64
#
# Everything lands in .macos/ (OMLX_MACOS_DIR names another folder); what is there is kept. Nothing is
# installed on the system: Debian's packages are only unpacked. No result runs here; none is signed.
#
# The compiler is Debian's rustc-web, since rustup's may have no standard library for this target: it
# may be a release newer than rust-toolchain.toml, and its clippy may know more lints.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
dir=${OMLX_MACOS_DIR:-$root/.macos}
target=aarch64-apple-darwin
ZIG_VERSION=0.17.1
MACOS=14.0          # the oldest that MLX's wheel is built for
JOBS=${JOBS:-$(nproc)}

say() { printf 'check-macos: %s\n' "$*"; }
fail() { printf 'check-macos: error: %s\n' "$*" >&2; exit 1; }

# Runs a step once: its stamp names all that it depends on.
step() {
    local name=$1 key=$2 stamp="$dir/stamps/$1" from=$SECONDS
    shift 2
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ] && return
    "$@"
    mkdir -p "$dir/stamps"
    printf '%s' "$key" >"$stamp"
    say "$name: $((SECONDS - from)) s"
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "on a Mac, use 'make lint' and 'make test'"
command -v apt-get >/dev/null || fail "this needs Debian's packages"
cd "$root"
command -v bindgen >/dev/null || fail "run 'make setup' first"
mkdir -p "$dir"

mlx_version=$(sed -n 's/^MLX_VERSION=\([0-9.]*\).*/\1/p' packaging/linux/setup.sh)
rust_version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
mlx_c=$(cargo metadata --format-version 1 --locked 2>/dev/null | python3 -c '
import json, os, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "mlx-sys":
        print(os.path.join(os.path.dirname(package["manifest_path"]), "src", "mlx-c"))') \
    || fail "cargo metadata failed"

# --- The compiler ---------------------------------------------------------------------------------

candidate() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p'; }

find_rustc() {
    rustc_version=$(candidate rustc-web)
    [ -n "$rustc_version" ] && [ "$rustc_version" != '(none)' ] \
        && dpkg --compare-versions "$rustc_version" ge "$rust_version"
}

toolchain="$dir/toolchain"
unpack_toolchain() {
    local std llvm packages=() need deb
    if ! find_rustc; then
        local sudo=""
        [ "$(id -u)" = 0 ] || sudo=sudo
        $sudo apt-get update -qq || fail "apt-get update failed"
        find_rustc || fail "no rustc-web of at least $rust_version: Debian has ${rustc_version:-none}"
    fi
    std=$(LC_ALL=C apt-cache depends "libstd-rust-web-dev=$rustc_version" | sed -n 's/^ *Depends: \(libstd-rust-web-[0-9.]*\)$/\1/p')
    llvm=$(LC_ALL=C apt-cache depends "$std" | sed -n 's/^ *Depends: \(libllvm[0-9]*\)$/\1/p')
    [ -n "$std" ] && [ -n "$llvm" ] || fail "rustc-web's libraries are not as expected: '$std', '$llvm'"
    for need in rustc-web rust-web-src rust-web-clippy libstd-rust-web-dev "$std"; do
        packages+=("$need=$rustc_version")
    done
    say "unpacking rustc $rustc_version"
    rm -rf "$toolchain" "$dir/debs"
    mkdir -p "$toolchain" "$dir/debs"
    (cd "$dir/debs" && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}" "$llvm") \
        || fail "apt-get could not download ${packages[*]} $llvm"
    for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$toolchain"; done
    rm -rf "$dir/debs" "$toolchain/usr/share/doc" "$toolchain/usr/src"/*/compiler
    need=$(LD_LIBRARY_PATH=$libraries ldd "$toolchain/usr/bin/rustc" "$toolchain/usr/bin/clippy-driver" | grep 'not found' || true)
    [ -z "$need" ] || fail "Debian's rustc needs libraries that are not here: $need"
    "${rustc[@]}" -vV | sed -n '1p;$p'
}

# Kept in the compiler's own folders, so that cargo needs no -Zbuild-std later.
build_std() {
    local lib="$toolchain/usr/lib/rustlib/$target/lib"
    say "building the standard library for $target"
    rm -rf "$lib" "$dir/std"
    mkdir -p "$lib" "$dir/std/src"
    printf '' >"$dir/std/src/lib.rs"
    cat >"$dir/std/Cargo.toml" <<END
[package]
name = "nothing"
edition = "2024"
[workspace]
[profile.dev]
opt-level = 0
debug = false
debug-assertions = false
overflow-checks = false
incremental = false
END
    (cd "$dir/std" && RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$dir/std/target" "${rust_env[@]}" \
        cargo build --quiet -j "$JOBS" -Zbuild-std=std,panic_unwind,proc_macro,test --target $target) \
        || fail "the standard library did not compile"
    cp "$dir/std/target/$target"/debug/deps/*.rlib "$lib/"
    rm -rf "$lib"/libnothing* "$dir/std"
}

# --- C, C++ and the linker ------------------------------------------------------------------------

zig="$dir/zig/ziglang/zig"
fetch_zig() {
    say "fetching zig $ZIG_VERSION"
    rm -rf "$dir/zig"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$dir/zig" \
        "ziglang==$ZIG_VERSION" || fail "pip could not install ziglang==$ZIG_VERSION"
}

# zig brings macOS's C headers and libSystem's list of symbols. What cc-rs and rustc say of the target
# and of Apple's SDK is dropped.
write_wrappers() {
    local name
    mkdir -p "$dir/bin"
    for name in cc c++; do
        cat >"$dir/bin/$name" <<END
#!/bin/bash
args=()
while [ \$# -gt 0 ]; do
    case "\$1" in
        --target=*|-mmacosx-version-min=*|-mmacos-version-min=*) ;;
        -arch|-isysroot|-target) shift ;;
        *) args+=("\$1") ;;
    esac
    shift
done
export ZIG_GLOBAL_CACHE_DIR='$dir/zig-cache' ZIG_LOCAL_CACHE_DIR='$dir/zig-cache'
exec '$zig' $name -target aarch64-macos.$MACOS "\${args[@]}"
END
    done
    # rustc takes its arguments from the name: one that it does not know means a C compiler's.
    cat >"$dir/bin/linker" <<END
#!/bin/bash
exec '$dir/bin/cc' -L'$dir/sdk/lib' -F'$dir/sdk/Frameworks' "\$@"
END
    printf '#!/bin/sh\nexec "%s" ar "$@"\n' "$zig" >"$dir/bin/ar"
    # rustc strips with this, which Debian's package lacks. Nothing needs stripping here.
    name="$toolchain/usr/lib/rustlib/x86_64-unknown-linux-gnu/bin"
    mkdir -p "$name"
    printf '#!/bin/sh\nexit 0\n' >"$name/rust-objcopy"
    chmod +x "$dir"/bin/* "$name/rust-objcopy"
}

# Nothing here knows what Apple's frameworks hold: look a name up before it goes into frameworks.txt.
stub() {
    local file=$1 name=$2
    shift 2
    mkdir -p "$(dirname "$file")"
    printf -- "--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\ninstall-name: '%s'\nexports:\n  - targets: [ arm64-macos ]\n    symbols: [ %s ]\n...\n" \
        "$name" "$(printf '%s, ' "$@" | sed 's/, $//')" >"$file"
}
write_stubs() {
    local name
    rm -rf "$dir/sdk"
    stub "$dir/sdk/lib/libiconv.tbd" /usr/lib/libiconv.2.dylib _iconv _iconv_open _iconv_close
    for name in $(cut -d' ' -f1 "$here/frameworks.txt" | sort -u); do
        # shellcheck disable=SC2046 -- one argument a symbol
        stub "$dir/sdk/Frameworks/$name.framework/$name.tbd" \
            "/System/Library/Frameworks/$name.framework/Versions/A/$name" \
            $(sed -n "s/^$name //p" "$here/frameworks.txt")
    done
}

# --- MLX ------------------------------------------------------------------------------------------

# As mlx-sys's build script would on a Mac; an older bindgen takes float16_t for u16. libclang before 15 knows
# bfloat16 only with an -march.
make_bindings() {
    local clang sizes=()
    if bindgen --help | grep -q -e ' --size_t-is-usize'; then sizes=(--size_t-is-usize); fi
    clang=$(compgen -G '/usr/lib/llvm-*/lib/libclang[-.][0-9s]*' | sort -V | tail -n 1)
    [ -n "$clang" ] || fail "libclang is missing: run 'make setup'"
    clang=$(dirname "$clang")
    mkdir -p "$dir/bindings"
    (cd "$mlx_c" && printf '#include "%s"\n' mlx/c/*.h) >"$dir/bindings/all.h"
    LIBCLANG_PATH=$clang bindgen "$dir/bindings/all.h" "${sizes[@]}" \
        --blocklist-function malloc --blocklist-function realloc --blocklist-type float16_t \
        --raw-line '#[repr(C)] #[derive(Clone, Copy, Debug, Default)] pub struct float16_t(pub u16);' \
        -o "$dir/bindings/bindings.rs" -- \
        -target arm64-apple-macosx$MACOS -march=armv8.6-a -nostdinc \
        -isystem "$(compgen -G "$clang/clang/*/include" | tail -n 1)" \
        -isystem "$dir/zig/ziglang/lib/libc/include/any-darwin-any" -I"$mlx_c" \
        || fail "bindgen failed on mlx-c's headers"
}

fetch_mlx() {
    say "fetching MLX $mlx_version for macOS"
    rm -rf "$dir/mlx" "$dir/wheel"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --platform macosx_14_0_arm64 --python-version 3.11 -d "$dir/wheel" "mlx-metal==$mlx_version" \
        || fail "pip could not download mlx-metal==$mlx_version"
    python3 -m zipfile -e "$dir"/wheel/mlx_metal-*.whl "$dir/mlx"
    rm -rf "$dir/wheel"
}

# INFINITY and NAN: zig's libc++ and macOS's <math.h> leave them to each other.
build_mlx_c() {
    say "building mlx-c for macOS"
    rm -rf "$dir/lib"
    mkdir -p "$dir/lib/objects"
    find "$mlx_c/mlx/c" -maxdepth 1 -name '*.cpp' -print0 | xargs -0 -P "$JOBS" -I{} sh -c '
        exec "$1/bin/c++" -std=c++20 -O0 -g0 -w "-DINFINITY=__builtin_inff()" "-DNAN=__builtin_nanf(\"\")" \
            -I"$2" -I"$1/mlx/mlx/include" -c "$3" -o "$1/lib/objects/$(basename "$3" .cpp).o"' _ "$dir" "$mlx_c" {} \
        || fail "mlx-c did not compile"
    "$dir/bin/ar" rcs "$dir/lib/libmlxc.a" "$dir"/lib/objects/*.o
    rm -rf "$dir/lib/objects"
}

write_cargo_config() {
    # Optimising what is not run would only take time.
    local text
    text=$(cat <<END
[target.$target]
linker = "$dir/bin/linker"
[target.$target.mlx]
rustc-link-search = ["native=$dir/lib", "native=$dir/mlx/mlx/lib"]
rustc-link-lib = ["static=mlxc", "dylib=mlx", "dylib=c++"]
rustc-env = { OUT_DIR = "$dir/bindings" }
[profile.dev]
opt-level = 0
debug = false
[profile.dev.package."*"]
opt-level = 0
[profile.dev.build-override]
opt-level = 0
END
    )
    [ -f "$dir/cargo.toml" ] && [ "$(cat "$dir/cargo.toml")" = "$text" ] || printf '%s\n' "$text" >"$dir/cargo.toml"
}

# --- What is asked for ----------------------------------------------------------------------------

libraries="$toolchain/usr/lib/x86_64-linux-gnu"
rust_env=(env "RUSTC=$toolchain/usr/bin/rustc" "LD_LIBRARY_PATH=$libraries")
rustc=("${rust_env[@]}" "$toolchain/usr/bin/rustc")
for_macos=("${rust_env[@]}" "CARGO_TARGET_DIR=$dir/target"
    CC_aarch64_apple_darwin="$dir/bin/cc" CXX_aarch64_apple_darwin="$dir/bin/c++"
    AR_aarch64_apple_darwin="$dir/bin/ar" SDKROOT="$dir/sdk" MACOSX_DEPLOYMENT_TARGET=$MACOS)
options=(--config "$dir/cargo.toml" -j "$JOBS" --locked --workspace --target $target)

prepare() {
    step toolchain "${rust_version}" unpack_toolchain
    step std "$(cat "$dir/stamps/toolchain") $("${rustc[@]}" -V)" build_std
    step zig "$ZIG_VERSION" fetch_zig
    write_wrappers
    write_stubs
    step bindings "$mlx_c $ZIG_VERSION $(bindgen --version)" make_bindings
    write_cargo_config
}

check() {
    say "Apple's declarations"
    "$dir/bin/cc" -Wall -Werror -c "$here/abi.c" -o "$dir/abi.o"
    say "clippy for $target"
    "${for_macos[@]}" "$toolchain/usr/bin/cargo-clippy" clippy "${options[@]}" --all-targets --keep-going -- -D warnings
    say "documentation for $target"
    RUSTDOCFLAGS="-D warnings" "${for_macos[@]}" RUSTDOC="$toolchain/usr/bin/rustdoc" cargo doc "${options[@]}" --no-deps
}

link() {
    step mlx "$mlx_version" fetch_mlx
    step mlx-c "$mlx_c $mlx_version $ZIG_VERSION" build_mlx_c
    say "building and linking for $target"
    "${for_macos[@]}" cargo build "${options[@]}" --bins
    "${for_macos[@]}" cargo test "${options[@]}" --no-run
}

install_python() {
    rm -rf "$dir/python"
    python3 -m venv "$dir/python"
    "$dir/python/bin/python" -m pip install --quiet --disable-pip-version-check "mlx==$mlx_version" "mlx-cpu==$mlx_version" numpy \
        || fail "pip could not install mlx==$mlx_version"
}

kernel() {
    step python "$mlx_version" install_python
    "$dir/python/bin/python" "$here/kernel/verify.py" engine/src/mlx/gated_delta.metal "$zig" "$dir/kernel"
}

[ $# -gt 0 ] || set -- check
[ "$*" != all ] || set -- check link kernel
for part in "$@"; do
    case $part in check|link|kernel) ;; *) fail "'$part' is not check, link, kernel or all" ;; esac
done
prepare
failed=()
for part in "$@"; do
    from=$SECONDS
    # Not in an || list, where the function would go on after an error.
    set +e
    (set -e; "$part")
    status=$?
    set -e
    [ $status = 0 ] || failed+=("$part")
    say "$part: $((SECONDS - from)) s"
done
[ ${#failed[@]} -eq 0 ] || fail "failed: ${failed[*]}"
say "all is well"
