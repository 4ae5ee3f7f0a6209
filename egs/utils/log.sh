# shellcheck shell=bash
# Messages with time, file and line. Sourced.

log() { # MESSAGE...
    printf '%s %s:%s: %s\n' "$(date '+%F %T')" "${BASH_SOURCE[1]##*/}" "${BASH_LINENO[0]}" "$*" >&2
}

die() { # MESSAGE...: ends after misuse, or where the user has to mend something
    printf '%s %s:%s: error: %s\n' "$(date '+%F %T')" "${BASH_SOURCE[1]##*/}" "${BASH_LINENO[0]}" "$*" >&2
    exit 2
}

fail() { # MESSAGE...: ends after a program failed; its own message stands above
    printf '%s %s:%s: failed: %s\n' "$(date '+%F %T')" "${BASH_SOURCE[1]##*/}" "${BASH_LINENO[0]}" "$*" >&2
    exit 1
}

show_tail() { # LOG: prints its last lines, where an error is explained
    printf -- '----- last lines of %s -----\n' "$1" >&2
    tail -n 20 "$1" >&2 || true
    printf -- '----- end of %s -----\n' "$1" >&2
}
