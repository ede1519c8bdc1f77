#!/bin/sh
# Makes .venv/oracle with mlx-lm, the oracle of the goldens and the peer of the benchmarks.
# Idempotent; needs the network only when requirements.txt changed.
set -eu
cd "$(dirname "$0")/../.."
stamp=.venv/oracle/requirements.done
if cmp -s tests/oracle/requirements.txt "$stamp"; then
    exit 0
fi
if ! command -v python3 >/dev/null; then
    echo "tests/oracle/setup.sh: python3 (3.10 or newer) is missing; install it first" >&2
    exit 1
fi
python3 -m venv .venv/oracle
.venv/oracle/bin/python -m pip install --quiet --disable-pip-version-check -r tests/oracle/requirements.txt
cp tests/oracle/requirements.txt "$stamp"
