#!/usr/bin/env bash
# The tests with the newest releases that setup.py admits instead of requirements/: what will the next lock break?
#
# Makes an environment in a temporary folder (7 GB), prints how it differs from the lock, runs the tests and removes it.
# 20 minutes on 2 cores. Mend what fails, or narrow the bounds in setup.py, then renew the lock: tools/lock.sh.
#
#   tools/check_newest.sh                             # arguments but --python PROGRAM go to pytest
#   tools/check_newest.sh --python python3.13 -m "not slow"
set -euo pipefail

set_up=(--newest true)
case ${1:-} in
    -h | --help)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    --python)
        set_up+=(--python "${2:?--python needs a value}")
        shift 2
        ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(mktemp -d "${TMPDIR:-/tmp}/espnet_larm_newest.XXXXXX")
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

versions() { # print NAME==VERSION a line, spelled alike
    sed -nE 's/^([A-Za-z0-9._-]+==[^ ]+).*/\1/p' | tr '[:upper:]_' '[:lower:]-' | LC_ALL=C sort
}

failed=0
tools/setup.sh "${set_up[@]}" --venv "$folder/venv" || failed=1  # what doctor finds is no reason to stop
[ -x "$folder/venv/bin/pytest" ] || exit 1
export PATH=$folder/venv/bin:$PATH
lock=requirements/py$(python -c 'import sys; print("%d%d" % sys.version_info[:2])').txt
echo "== from $lock (<) to the newest (>)"
diff <(cat "$lock" requirements/mini.txt requirements/ngram.txt | versions) \
    <(python -m pip freeze --all --exclude pip --exclude espnet-larm | versions) && echo "no difference"
echo "== pytest"
python -m pytest "$@" || failed=1
exit "$failed"
