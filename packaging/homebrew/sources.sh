# What the formula downloads, sourced by release.sh. The versions of MLX and of what it fetches are
# those of mlx-sys in Cargo.lock; release.sh checks each against the archives themselves.
# shellcheck shell=sh disable=SC2034
VERSION=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
MLX_VERSION=0.32.2
JSON_VERSION=3.11.3
FMT_VERSION=12.1.0
GGUFLIB_COMMIT=8fa6eb65236618e28fd7710a0fba565f7faa1848
METAL_CPP_FILE=metal-cpp_26.zip

NAMES="OMLX MLX METAL_CPP JSON FMT GGUFLIB"
URL_OMLX=https://github.com/omlx/omlx/archive/refs/tags/v$VERSION.tar.gz
URL_MLX=https://github.com/ml-explore/mlx/archive/refs/tags/v$MLX_VERSION.tar.gz
URL_METAL_CPP=https://developer.apple.com/metal/cpp/files/$METAL_CPP_FILE
URL_JSON=https://github.com/nlohmann/json/releases/download/v$JSON_VERSION/json.tar.xz
URL_FMT=https://github.com/fmtlib/fmt/archive/refs/tags/$FMT_VERSION.tar.gz
URL_GGUFLIB=https://github.com/antirez/gguf-tools/archive/$GGUFLIB_COMMIT.tar.gz
