#!/usr/bin/env bash
# Download a word n-gram of openslr.org/11 with resume and checksum, and print its path; one that is there is checked.
#
#   download_ngram.sh NGRAM MIRROR NGRAMS FOLDER      # makes FOLDER/NGRAM.arpa.gz
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/../../utils/log.sh"

[ $# -eq 4 ] || die "expected NGRAM MIRROR NGRAMS FOLDER, got $# arguments"
ngram=$1 mirror=$2 ngrams=$3 folder=$4
line=$(awk -v name="$ngram" '$1 == name { print $2, $3 }' "$ngrams")
[ -n "$line" ] || die "--ngram $ngram is not known; allowed: $(awk '!/^#/ { print $1 }' "$ngrams" | paste -sd ' ')"
"$(dirname "${BASH_SOURCE[0]}")/../../utils/download.sh" "$mirror/${line% *}" "$folder/$ngram.arpa.gz" "${line#* }" >&2
echo "$folder/$ngram.arpa.gz"
