#!/usr/bin/env bash
# Download a file with resume and checksum; a complete file is left alone.
#
#   download.sh URL FILE CHECKSUM      # CHECKSUM: sha256, or md5 (32 digits); if empty, the sha256 is printed
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/log.sh"

[ $# -eq 3 ] || die "expected URL FILE CHECKSUM, got $# arguments"
url=$1 file=$2 expected=$3
kind=sha256
[ "${#expected}" -ne 32 ] || kind=md5

if [ ! -f "$file" ]; then
    mkdir -p "$(dirname "$file")"
    log "$url -> $file"
    curl --fail --location --retry 5 --continue-at - --output "$file.part" "$url" ||
        die "the download of $url failed; what came is in $file.part, the same command goes on from there"
    mv "$file.part" "$file"
fi
sum=$("${kind}sum" "$file" | cut -d ' ' -f 1)
[ -n "$expected" ] || log "the $kind of $file is $sum"
[ -z "$expected" ] || [ "$sum" = "$expected" ] ||
    die "$file has $kind $sum, expected $expected; move it away and repeat the command"
