#!/usr/bin/env bash
# Download a file with resume and checksum; a complete file is left alone.
#
#   download.sh URL FILE SHA256      # an empty SHA256 skips the check and prints the sum
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/log.sh"

[ $# -eq 3 ] || die "expected URL FILE SHA256, got $# arguments"
url=$1 file=$2 sha256=$3

checksum() { # FILE
    sha256sum "$1" | cut -d ' ' -f 1
}

if [ ! -f "$file" ]; then
    mkdir -p "$(dirname "$file")"
    log "$url -> $file"
    curl --fail --location --retry 5 --continue-at - --output "$file.part" "$url" ||
        die "the download of $url failed; what came is in $file.part, the same command goes on from there"
    mv "$file.part" "$file"
fi
sum=$(checksum "$file")
[ -n "$sha256" ] || log "the sha256 of $file is $sum"
[ -z "$sha256" ] || [ "$sum" = "$sha256" ] ||
    die "$file has sha256 $sum, expected $sha256; move it away and repeat the command"
