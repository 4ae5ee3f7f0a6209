#!/usr/bin/env bash
# Everything that must hold before a commit: ruff, mypy, shellcheck, the site of docs/, tests. About 20 minutes on 2 cores.
#
# It sets its environment up by itself (tools/setup.sh), runs all checks also when one fails, and ends with a summary.
# ESPNET_LARM_VENV names another environment than .venv. Arguments go to pytest:
#
#   tools/check.sh
#   tools/check.sh -m "not slow" tests/looped
set -euo pipefail

case ${1:-} in
    -h | --help)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export ESPNET_LARM_VENV=${ESPNET_LARM_VENV:-$PWD/.venv}
tools/setup.sh
# What users need does not hold it.
tools/setup.sh --extras docs
export PATH=$ESPNET_LARM_VENV/bin:$PATH
summary=()
failed=0

check() { # NAME COMMAND...: run it, note the result, go on
    local name=$1 start=$SECONDS result=passed
    shift
    echo "== $name"
    "$@" || {
        result=FAILED
        failed=1
    }
    summary+=("$(printf '%-12s %-6s %4d s' "$name" "$result" $((SECONDS - start)))")
}

# What recipes make (ESPnet's folders) is not ours to check.
mapfile -d '' scripts < <(
    find egs tools .ci \( -name data -o -name dump -o -name exp -o -name downloads \) -prune \
        -o -type f \( -name '*.sh' -o -path .ci/run \) -print0
)

check "ruff check" ruff check .
check "ruff format" ruff format --check .
check mypy mypy
check shellcheck shellcheck "${scripts[@]}"
check mkdocs env NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict --quiet
# Files of tests go to a process a core, each with one thread; -n 0 runs them in one.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
check pytest python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile "$@"

echo "== summary"
printf '%s\n' "${summary[@]}"
exit "$failed"
