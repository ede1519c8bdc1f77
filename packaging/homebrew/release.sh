#!/usr/bin/env bash
# Makes the formula of a release from omlx.rb.in: downloads every archive that it names, checks that
# they are what this version builds from, and writes their SHA-256. Nothing is written when anything is
# missing: a checksum is computed here or it is not there.
#
#   packaging/homebrew/release.sh OUTPUT      such as ../homebrew-tap/Formula/omlx.rb
#
# ARCHIVES names a folder with archives that are there already, by the names of the list below.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=packaging/homebrew/sources.sh
. packaging/homebrew/sources.sh

fail() { printf 'release.sh: %s\n' "$*" >&2; exit 1; }
[ $# = 1 ] || fail "say where to write the formula"
output=$1
[ -n "$VERSION" ] || fail "Cargo.toml names no version"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sha256() {
    if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

# The file of an archive: from the folder of archives, else from the network.
archive() {
    local name=$1 url=$2
    if [ -n "${ARCHIVES:-}" ]; then
        [ -s "$ARCHIVES/$name" ] || fail "$ARCHIVES/$name is missing"
        printf '%s' "$ARCHIVES/$name"
        return
    fi
    curl --fail --silent --show-error --location --proto =https --retry 3 --output "$work/$name" "$url" \
        || fail "cannot download $url"
    printf '%s' "$work/$name"
}

# A file inside an archive, whatever its top folder is called.
inside() {
    local member
    member=$(tar -tf "$1" | grep -E "^[^/]+/$2\$" | head -n 1) || true
    [ -n "$member" ] || fail "$1 has no $2"
    tar -xOf "$1" "$member"
}

expect() {
    grep -qF -- "$2" <<<"$1" || fail "$3 does not say '$2': sources.sh is not what this version builds from"
}

cp packaging/homebrew/omlx.rb.in "$work/omlx.rb"
for name in $NAMES; do
    url=URL_$name
    file=$(archive "$name" "${!url}")
    sum=$(sha256 "$file")
    [[ $sum =~ ^[0-9a-f]{64}$ ]] || fail "no SHA-256 of $file"
    case $name in
        OMLX)
            expect "$(inside "$file" Cargo.toml)" "version = \"$VERSION\"" "the release's Cargo.toml"
            cmp -s <(inside "$file" Cargo.lock) Cargo.lock || fail "the release has another Cargo.lock"
            ;;
        MLX)
            cmake=$(inside "$file" CMakeLists.txt)
            expect "$cmake" "metal/cpp/files/$METAL_CPP_FILE" "MLX's CMakeLists.txt"
            expect "$cmake" "json/releases/download/v$JSON_VERSION/json.tar.xz" "MLX's CMakeLists.txt"
            expect "$cmake" "GIT_TAG $FMT_VERSION" "MLX's CMakeLists.txt"
            expect "$(inside "$file" mlx/io/CMakeLists.txt)" "GIT_TAG $GGUFLIB_COMMIT" "MLX's mlx/io"
            ;;
    esac
    sed -i.bak -e "s|@URL_$name@|${!url}|" -e "s|@SHA256_$name@|$sum|" "$work/omlx.rb"
done

# The head of the template speaks of a template.
sed -i.bak -e '/^class /,$!d' "$work/omlx.rb"
if grep -nE '@[A-Z0-9_]+@' "$work/omlx.rb"; then fail "these places were not filled in"; fi
mkdir -p "$(dirname "$output")"
cp "$work/omlx.rb" "$output"
printf 'release.sh: wrote %s for %s\n' "$output" "$VERSION"
