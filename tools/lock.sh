#!/usr/bin/env bash
# Renew requirements/: exact versions and hashes of all that tools/setup.sh installs, from the bounds in setup.py.
#
# Needs uv, which is in the environment of tools/setup.sh, and a package index; 30 seconds. Commit what changes after
# tools/check.sh has passed with it. Arguments replace uv's --upgrade, which renews everything:
#
#   tools/lock.sh
#   tools/lock.sh --upgrade-package transformers    # nothing else
set -euo pipefail

die() { # misuse, or something here that the user has to mend
    echo "$(date '+%F %T') ${0##*/}:${BASH_LINENO[0]}: error: $*" >&2
    exit 2
}

case ${1:-} in
    -h | --help)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:${ESPNET_LARM_VENV:-$PWD/.venv}/bin
command -v uv >/dev/null || die "there is no uv on PATH nor in .venv: make the environment with tools/setup.sh"
mkdir -p requirements
beside=$(mktemp -d requirements/.new.XXXXXX)
trap 'rm -rf "$beside"' EXIT

lock() { # NAME ARGUMENTS...: write requirements/NAME.txt
    local name=$1
    shift
    [ ! -f "requirements/$name.txt" ] || cp "requirements/$name.txt" "$beside"
    # All hashes of a release are listed, those of its wheels for aarch64 too; versions do not differ there.
    # uv writes neither indexes nor paths into the file unless it is asked to.
    uv pip compile --quiet --generate-hashes --no-header --python-platform x86_64-unknown-linux-gnu \
        --output-file "$beside/$name.txt" "$@" > /dev/null
    { echo "# Made by tools/lock.sh from setup.py."; grep -v '^# Made by' "$beside/$name.txt"; } > "$beside/$name.new"
    mv "$beside/$name.new" "requirements/$name.txt"
}

lock_extra() { # NAME ARGUMENTS...: an extra, in a file of its own
    local name=$1 requirements
    shift
    requirements=$(sed -n "s/^    \"$name\": \[\"\(.*\)\"\],\$/\1/p" setup.py)
    [ -n "$requirements" ] || die "setup.py has no line \"$name\": [\"...\"] among its EXTRAS"
    lock "$name" --no-annotate --python-version 3.12 "$@" - <<< "${requirements//\", \"/$'\n'}"
}

[ $# -gt 0 ] || set -- --upgrade
for version in 3.12 3.13; do
    lock "py${version/./}" --extra espnet --extra serve --extra test --extra dev --python-version "$version" "$@" setup.py
done
lock_extra mini --no-deps "$@"
lock_extra ngram --no-deps "$@"
lock_extra microphone --no-deps "$@"
# It goes into the environment that has the others.
lock_extra docs --constraint requirements/py312.txt "$@"
