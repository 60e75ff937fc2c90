#!/usr/bin/env bash
# Makes the virtual environment from a hash-pinned lock and installs this checkout into it, editable.
#   tools/env.sh run | dev [FOLDER]      FOLDER is .venv beside this checkout unless told
# Does nothing when the environment already holds that lock. No package is installed whose hash is not in the lock.
set -euo pipefail
cd "$(dirname "$0")/.."

want=${1:?usage: tools/env.sh run|dev [FOLDER]}
venv=${2:-.venv}
lock=tools/locks/$want.txt
[ -f "$lock" ] || { echo "env: there is no lock $lock" >&2; exit 2; }

fail() { printf 'env: %s\n' "$@" >&2; exit 1; }

find_python() { # the first 64-bit CPython 3.11 to 3.14 that can make environments; $PYTHON goes first
    local candidate
    for candidate in ${PYTHON:-} python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3; do
        "$candidate" -c 'import sys, ensurepip, venv
sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 14) and sys.maxsize > 2**32))' >/dev/null 2>&1 || continue
        command -v "$candidate"
        return
    done
    fail "no Python from 3.11 to 3.14 (64 bit, with venv) was found on PATH." \
        "Debian, Ubuntu, Raspberry Pi OS: sudo apt-get install python3-venv   (or: make PYTHON=/path/to/python3.12 ...)" \
        "python3 here is: $(python3 --version 2>&1 || true)"
}

progress() { # pip's many lines become one per package, counted
    awk -v total="$1" -v live="$([ -t 1 ] && echo 1)" '
        /^(Collecting|Processing) / { n++; name = $2; sub(/.*\//, "", name); sub(/[=<>;].*|-[0-9].*/, "", name)
            if (live) printf "\r\033[K  %d of at most %d: %s", n, total, name
            else if (n % 10 == 0) printf "  %d of at most %d packages\n", n, total
            fflush() }
        /^Installing collected/ { printf "%s  %d fetched and checked; installing\n", live ? "\r\033[K" : "", n; fflush() }'
}

stamp() { # everything the environment depends on: the lock, the package's own metadata, where this checkout lies
    echo "$(cat "tools/locks/$1.txt" pyproject.toml | sha256sum | cut -d' ' -f1) $PWD"
}

if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    [ "$(cat "$venv/.limpet-$want" 2>/dev/null)" = "$(stamp "$want")" ] && exit 0
else
    python=$(find_python)
    echo "Making $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "$python could not make $venv: see the message above"
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
echo "Installing $lock into $venv, every package checked against its hash (a few minutes the first time)"
"$venv/bin/python" -m pip install --require-hashes --retries 5 -r "$lock" | progress "$(grep -cE '^[a-z0-9]' "$lock")" ||
    fail "pip could not install $lock: see the message above; a second try goes on with what is already fetched"
note=$("$venv/bin/python" -m pip install --no-deps --no-build-isolation --no-index --editable . 2>&1) ||
    fail "this checkout could not be installed into $venv:" "$note"
stamp "$want" >"$venv/.limpet-$want"
if [ "$want" = dev ]; then stamp run >"$venv/.limpet-run"; fi # dev holds all that run does
