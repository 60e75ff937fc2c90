#!/usr/bin/env bash
# Regenerates the hash-pinned locks from pyproject.toml. Needs uv (https://docs.astral.sh/uv): `pip install uv`.
#   device.txt  what an installed agent needs        run.txt  + the demo        dev.txt  + tests and checks
#   train.txt   what an installed agent needs + what tools/train_*.py need
# One version of every package over all three: run is constrained by dev's choice and so on down.
# `tools/lock.sh --upgrade` takes the newest versions; without it, versions that still fit are kept.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=(uv)
command -v uv >/dev/null || uv=(python3 -m uv)
"${uv[@]}" --version >/dev/null || { echo "lock: uv is not installed: pip install uv" >&2; exit 1; }

lock() { # lock NAME ARGS...
    local out=tools/locks/$1.txt
    shift
    "${uv[@]}" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-emit-index-url --no-emit-find-links --no-annotate --output-file "$out" pyproject.toml \
        --constraint tools/locks/constraints.txt "$@"
    if grep -nE 'https?://|^-' "$out"; then
        echo "lock: $out names a URL or an option: a lock holds names, versions and hashes only" >&2
        exit 1
    fi
    echo "$out: $(grep -cE '^[a-z0-9]' "$out") packages"
}

lock dev tools/locks/build.in --extra dev --extra demo --extra publish "$@"
lock run tools/locks/build.in --extra demo --constraint tools/locks/dev.txt
lock device --constraint tools/locks/dev.txt
lock train tools/locks/train.in --constraint tools/locks/dev.txt
