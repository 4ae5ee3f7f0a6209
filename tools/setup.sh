#!/usr/bin/env bash
# Make the Python environment of this repository, or finish one that was interrupted.
#
# The first time takes minutes and about 6 GB of disk (PyTorch with CUDA); later calls find a mark and return at once.
#
#   tools/setup.sh                        # everything: recipes, tests and checks
#   tools/setup.sh --extras mini          # what egs/mini needs
#   tools/setup.sh --python python3.10    # another Python
#   . .venv/bin/activate                  # use it
set -euo pipefail

extras=mini,test,dev,ngram  # of setup.py, joined by commas; those installed before stay; without a compiler, no ngram
python=               # Python 3.10 or 3.11; the first that is found by default
venv=${ESPNET_LARM_VENV:-}  # the environment's folder; .venv in the repository by default

log() { echo "$(date '+%F %T') ${0##*/}:${BASH_LINENO[0]}: $*" >&2; }
die() { # misuse, or something here that the user has to mend
    echo "$(date '+%F %T') ${0##*/}:${BASH_LINENO[0]}: error: $*" >&2
    exit 2
}

default_extras=$extras

while [ $# -gt 0 ]; do
    case $1 in
        --extras | --python | --venv)
            [ $# -ge 2 ] || die "$1 needs a value"
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        -h | --help)
            sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
            exit 0
            ;;
        *) die "unknown option $1; allowed: --extras LIST, --python PROGRAM, --venv FOLDER" ;;
    esac
done

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${venv:-$repository/.venv}
[ "${venv#/}" != "$venv" ] || venv=$PWD/$venv
mark=$venv/espnet_larm_setup.txt  # line 1: what was installed from, line 2: extras

is_usable() { # PROGRAM: is it a Python of a version that ESPnet and torch have in common, able to make environments?
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 12))' 2>/dev/null
}

advice="Install one, say with \`apt install python3.11-venv\` or \`conda create -n py311 python=3.11\`, and name it: \
tools/setup.sh --python /path/to/python3.11"

find_python() {
    local candidate
    for candidate in "${python:-python3.11}" python3.10 python3 python; do
        if is_usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "no program on PATH is a Python 3.10 or 3.11 with venv (python3 here: $(python3 --version 2>&1 || true))." \
        "$advice"
}

check_options() {
    local extra known
    known=$(sed -n '/^EXTRAS = {/,/^}/s/^    "\(.*\)": .*/\1/p' "$repository/setup.py" | paste -sd ' ')
    for extra in ${extras//,/ }; do
        [[ " $known " == *" $extra "* ]] || die "--extras: $extra is not known; allowed: ${known// /, }"
    done
    [ -n "$python" ] || return 0
    command -v "$python" >/dev/null || die "--python $python: no such program. $advice"
    is_usable "$python" || die "--python $python is no Python 3.10 or 3.11 with venv. $advice"
}

state() { # what an environment depends on; another one is installed again
    echo "$repository $(sha256sum < "$repository/setup.py" | cut -d ' ' -f 1)"
}

has_extras() { # LIST: are they all among those that the mark names, as installed or as not to be had here?
    local extra
    for extra in ${1//,/ }; do
        [[ ,$(sed -n 2p "$mark"), == *,"$extra",* ]] && continue
        # Who asks for it by name may have a compiler by now.
        [[ $extras == "$default_extras" && ,$(sed -n 2p "$mark"), == *,no-"$extra",* ]] || return 1
    done
}

is_ready() {
    [ -f "$mark" ] && [ "$(sed -n 1p "$mark")" = "$(state)" ] && has_extras "$extras" && "$venv/bin/python" -c '' 2>/dev/null
}

forget_half_installed() {
    # pip writes RECORD last, but takes a package without it for installed.
    local folder
    for folder in "$venv"/lib/python3*/site-packages/*.dist-info; do
        if [ -d "$folder" ] && [ ! -f "$folder/RECORD" ]; then
            log "${folder##*/} was left half installed: it is installed again"
            rm -r "$folder"
        fi
    done
}

make_venv() {
    if [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        is_usable "$venv/bin/python" ||
            die "$venv holds $("$venv/bin/python" --version), 3.10 or 3.11 is needed: move it away or name another with --venv"
        log "$venv is there, but not complete or not up to date"
        forget_half_installed
        return
    fi
    [ ! -e "$venv" ] || [ -e "$venv/pyvenv.cfg" ] || [ -z "$(ls -A "$venv")" ] ||
        die "$venv is there and is not a Python environment: move it away or name another with --venv"
    local base
    base=$(find_python)
    log "making $venv with $("$base" --version) ($base)"
    # Links to a Python that has gone would be kept.
    rm -f "$venv"/bin/python*
    "$base" -m venv "$venv"
}

install() {
    local extra others=() ngram=
    if [ -f "$mark" ]; then
        extras=$extras,$(sed -n 2p "$mark")
        rm "$mark"
    fi
    for extra in $(tr ',' '\n' <<< "$extras" | sed 's/^no-//; /^$/d' | sort -u); do
        if [ "$extra" = ngram ]; then ngram=ngram; else others+=("$extra"); fi
    done
    extras=$(IFS=,; echo "${others[*]-}")
    log "installing espnet_larm[$extras] and what it needs with pip (minutes and 6 GB when it is the first time)"
    pip_install "$extras" || {
        log "error: pip failed (above). What it had installed stays: mend the cause and repeat the command"
        exit 1
    }
    if [ -n "$ngram" ] && ! pip_install ngram; then
        # Tried again when setup.py changes, or another extra is added.
        ngram=no-ngram
        log "n-grams are off, all else is there: pip could not build kenlm (above), which takes cmake and a C++ compiler." \
            "With those: $venv/bin/python -m pip install 'kenlm>=0.2'"
    fi
    extras+=${ngram:+${extras:+,}$ngram}
    printf '%s\n' "$(state)" "$extras" > "$mark.new"
    mv "$mark.new" "$mark"
}

pip_install() { # EXTRAS
    local quiet=(--quiet)
    [ ! -t 1 ] || quiet=()
    "$venv/bin/python" -m pip install "${quiet[@]}" --disable-pip-version-check --editable "${repository}[$1]"
}

check_options
is_ready && exit 0
start=$SECONDS
exec 9< "$repository"
# Two set-ups at a time would write over each other; the second then finds everything done.
if command -v flock >/dev/null; then
    flock --nonblock 9 || { log "waiting for another set-up of $repository" && flock 9; }
    is_ready && exit 0
fi
make_venv
install
log "$venv is ready after $((SECONDS - start)) s"
