#!/usr/bin/env bash
# `make conformance`: schemathesis on docs/openapi.json against a daemon of its own with the bundled
# model. Arguments go to schemathesis; CASES is the most cases of one operation and kind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD

pins=tests/conformance/requirements.txt
if ! cmp -s "$pins" .venv/schemathesis/requirements.done; then
    python3 -m venv .venv/schemathesis
    .venv/schemathesis/bin/python -m pip install --quiet --disable-pip-version-check -r "$pins"
    cp "$pins" .venv/schemathesis/requirements.done
fi

. packaging/daemon.sh
start_daemon
url=http://$(daemon_address)
export OMLX_MODEL=omlx-tiny SCHEMATHESIS_HOOKS=tests.conformance.hooks PYTHONPATH=$root
checks=not_a_server_error,response_schema_conformance,status_code_conformance
checks=$checks,content_type_conformance,response_headers_conformance,events_have_their_schema
# It writes what it found into the working directory.
cd "$base"
"$root/.venv/schemathesis/bin/st" run "$root/docs/openapi.json" --url "$url" \
    --header "Authorization: Bearer $(cat "$base/api-key")" --checks "$checks" --mode all --seed 1 \
    --max-examples "${CASES:-40}" --phases examples,coverage,fuzzing --request-timeout 120 "$@"

# What is left is a daemon that works.
body='{"model":"omlx-tiny","messages":[{"role":"user","content":"Hello"}],"max_tokens":2}'
curl -sSf -H "Authorization: Bearer $(cat "$base/api-key")" -d "$body" -H 'content-type: application/json' \
    "$url/v1/chat/completions" >/dev/null
kill -0 "$daemon"
if grep -n -i "panicked" "$base/daemon.log"; then
    echo "a handler panicked" >&2
    exit 1
fi
echo "the daemon is alive and well"
