#!/usr/bin/env bash
# Make the Python environment of this repository, or finish one that was interrupted.
#
# It holds exactly what requirements/ lists, of ESPnet and PyTorch with CUDA too. The first time takes minutes and 7 GB
# of disk; later calls find a mark and return at once.
#
#   tools/setup.sh                        # everything: recipes, tests and checks
#   tools/setup.sh --extras mini          # without n-grams
#   tools/setup.sh --extras docs          # and what builds the site of docs/
#   tools/setup.sh --extras mini,ngram,microphone    # and what transcribe --live --microphone needs
#   tools/setup.sh --python python3.13    # another Python
#   . .venv/bin/activate                  # use it
set -euo pipefail

extras=mini,ngram  # joined by commas: mini is eSpeak NG (GPL) for egs/mini and tests, ngram is kenlm, which takes a compiler
python=            # Python 3.12 or 3.13; the first that is found by default
venv=${ESPNET_LARM_VENV:-}  # the environment's folder; .venv in the repository by default
newest=false       # true: the newest releases that setup.py admits instead of requirements/ (tools/check_newest.sh)

log() { echo "$(date '+%F %T') ${0##*/}:${BASH_LINENO[0]}: $*" >&2; }
die() { # misuse, or something here that the user has to mend
    echo "$(date '+%F %T') ${0##*/}:${BASH_LINENO[0]}: error: $*" >&2
    exit 2
}

default_extras=$extras

while [ $# -gt 0 ]; do
    case $1 in
        --extras | --python | --venv | --newest)
            [ $# -ge 2 ] || die "$1 needs a value"
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        -h | --help)
            sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
            exit 0
            ;;
        *) die "unknown option $1; allowed: --extras LIST, --python PROGRAM, --venv FOLDER, --newest true" ;;
    esac
done

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${venv:-$repository/.venv}
[ "${venv#/}" != "$venv" ] || venv=$PWD/$venv
marks=$venv/espnet_larm_setup  # a file for each list of requirements that is installed, with what it was installed from

version_of() { # PROGRAM: print 312 or 313; fail if it is another Python (free-threaded, too) or cannot make environments
    "$1" -c 'import ensurepip, sys, venv
print("%d%d" % sys.version_info[:2])
sys.exit(not (3, 12) <= sys.version_info[:2] < (3, 14) or "t" in sys.abiflags)' 2>/dev/null
}

advice="Get one with one of: \`uv python install 3.12\`, \`conda create -n py312 python=3.12\`, \`pyenv install 3.12\`, \
\`apt install python3.12-venv\` (where the system has it). uv's and pyenv's are found; others are named: \
tools/setup.sh --python /path/to/python3.12"

find_python() {
    local candidate
    # pyenv's shims are on PATH for versions that are not chosen, too, and fail: what does not run is passed over.
    for candidate in python3.12 python3.13 python3 python \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[23]*/bin/python \
        "$(uv python find --system --no-python-downloads '>=3.12,<3.14' 2>/dev/null)"; do
        if version_of "$candidate" >/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.12 or 3.13 with venv was found on PATH, among pyenv's or uv's (python3 here:" \
        "$(python3 --version 2>&1 || true)). $advice"
}

check_options() {
    local extra
    for extra in ${extras//,/ }; do
        [[ $extra =~ ^(mini|ngram|microphone|docs)$ ]] ||
            die "--extras: $extra is not known; allowed: mini, ngram, microphone, docs"
    done
    [[ $newest =~ ^(true|false)$ ]] || die "--newest: $newest is not known; allowed: true, false"
    [ -n "$python" ] || return 0
    command -v "$python" >/dev/null || die "--python $python: no such program. $advice"
    version_of "$python" >/dev/null || die "--python $python is no Python 3.12 or 3.13 with venv. $advice"
}

check_owner() { # is it, by an editable install, the environment of another checkout that still exists?
    local owner
    owner=$("$venv/bin/python" -P -c 'import importlib.metadata, json, urllib.parse
try:
    record = importlib.metadata.distribution("espnet-larm").read_text("direct_url.json")
    print(urllib.parse.unquote(urllib.parse.urlparse(json.loads(record or "{}").get("url", "")).path))
except importlib.metadata.PackageNotFoundError:
    pass' 2>/dev/null) || return 0
    [ -z "$owner" ] || [ ! -d "$owner" ] || [ "$owner" -ef "$repository" ] ||
        die "$venv is the environment of $owner: make another for $repository with" \
            "tools/setup.sh --venv FOLDER, or remove it"
}

file_of() { # LIST: its file; core is what is always installed
    if [ "$1" = core ]; then echo "$repository/requirements/py$version.txt"; else echo "$repository/requirements/$1.txt"; fi
}

state() { # LIST: what it is installed from; another state is installed again
    echo "$repository newest=$newest $(cat "$repository/setup.py" "$(file_of "$1")" | sha256sum)"
}

has() { # LIST: is it installed, or not to be had here?
    local noted
    noted=$(cat "$marks/$1" 2>/dev/null) || return 1
    [ "$noted" != "$(state "$1")" ] || return 0
    # Who asks for it by name may have a compiler by now.
    [ "$extras" = "$default_extras" ] && [ "$noted" = "failed $(state "$1")" ]
}

is_ready() {
    local list version
    [ -f "$marks/works" ] && version=$(version_of "$venv/bin/python") || return 1
    for list in core ${extras//,/ }; do
        has "$list" || return 1
    done
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
        version_of "$venv/bin/python" >/dev/null ||
            die "$venv holds $("$venv/bin/python" --version), 3.12 or 3.13 is needed: move it away or name another with --venv"
        check_owner
        log "$venv is there, but not complete or not up to date"
        forget_half_installed
        return
    fi
    [ ! -e "$venv" ] || [ -e "$venv/pyvenv.cfg" ] || [ -z "$(ls -A "$venv")" ] ||
        die "$venv is there and is not a Python environment: move it away or name another with --venv"
    local base
    base=${python:-$(find_python)}
    log "making $venv with $("$base" --version) ($base)"
    # Links to a Python that has gone would be kept.
    rm -f "$venv"/bin/python*
    "$base" -m venv "$venv"
}

pip_install() { # ARGUMENTS...
    # pip and not uv, which would take a sixth of the time: pip is in every Python, and reads the mirrors of pip.conf.
    # --no-compile: most of the 22,000 files are never imported; Python compiles the others when they are.
    local quiet=(--quiet)
    [ ! -t 1 ] || quiet=()
    "$venv/bin/python" -m pip install "${quiet[@]}" --no-compile --disable-pip-version-check "$@"
}

pip_install_list() { # LIST
    local locked=(--require-hashes --no-deps) build
    if [ "$newest" = true ]; then
        pip_install --editable "${repository}[${1/#core/espnet,serve,test,dev}]"
        return
    fi
    if [ "$1" = core ]; then
        # First what builds the packages that have no wheel (ctc-segmentation, in C, and antlr4) and this one.
        build=$(sed -nE '/^(cython|numpy|setuptools)==/,/[^\\]$/p' "$(file_of core)")
        pip_install "${locked[@]}" --requirement /dev/stdin <<< "$build" &&
            pip_install "${locked[@]}" --no-build-isolation --requirement "$(file_of core)" &&
            pip_install --no-deps --no-build-isolation --editable "$repository"
    else
        # kenlm's build brings its own cmake.
        pip_install "${locked[@]}" --requirement "$(file_of "$1")"
    fi
}

install() { # LIST
    has "$1" && return
    mkdir -p "$marks"
    rm -f "$marks/$1"
    log "installing $1 ($(file_of "$1")) with pip$([ "$1" != core ] || echo ", minutes and 7 GB when it is the first time")"
    if [ "$1$version" = ngram313 ]; then
        echo "failed $(state "$1")" > "$marks/$1.new"
        log "n-grams are off, all else is there: kenlm 0.3.0 brings C++ that Cython made for Pythons before 3.13, and does" \
            "not compile. With Python 3.12: tools/setup.sh --python python3.12 --venv FOLDER"
    elif pip_install_list "$1"; then
        state "$1" > "$marks/$1.new"
    elif [ "$1" = ngram ]; then
        # Tried again when requirements change, or when it is asked for by name.
        echo "failed $(state "$1")" > "$marks/$1.new"
        log "n-grams are off, all else is there: pip could not build kenlm (above), which takes a C++ compiler." \
            "With one: tools/setup.sh --extras ngram"
    else
        log "error: pip failed (above). What it had installed stays: mend the cause and repeat the command"
        exit 1
    fi
    mv "$marks/$1.new" "$marks/$1"
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
version=$(version_of "$venv/bin/python")
rm -f "$marks/works"
for list in core ${extras//,/ }; do
    install "$list"
done
# -P: the package of this environment, not of the folder that this is called from.
"$venv/bin/python" -P -m espnet_larm doctor >&2 || die "$venv is made, but does not work: see above what to do"
touch "$marks/works"
log "$venv is ready after $((SECONDS - start)) s"
