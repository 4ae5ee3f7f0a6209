#!/usr/bin/env bash
# Download a split of LibriSpeech with resume and checksum, and unpack it; a split that is there is left alone.
#
#   download_split.sh SPLIT MIRROR ARCHIVES FOLDER      # makes FOLDER/LibriSpeech/SPLIT
#
# The archive is removed once it is unpacked (a mark stands in for it), so that the disk need not hold both.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/../../utils/log.sh"

[ $# -eq 4 ] || die "expected SPLIT MIRROR ARCHIVES FOLDER, got $# arguments"
split=$1 mirror=$2 archives=$3 folder=$4
target=$folder/LibriSpeech/$split mark=$folder/LibriSpeech/.$split.done

if [ -f "$mark" ]; then
    exit 0
fi
[ ! -e "$target" ] || die "$target is there, but was not unpacked to its end by this script; move it away"
read -r path checksum < <(sed -n "s/^$split //p" "$archives") || die "$archives does not list $split"
"$(dirname "${BASH_SOURCE[0]}")/../../utils/download.sh" "$mirror/$path" "$folder/$split.tar.gz" "$checksum"
log "$folder/$split.tar.gz -> $target"
part=$folder/$split.part
rm -rf "$part"
mkdir -p "$part" "$folder/LibriSpeech"
tar -xzf "$folder/$split.tar.gz" -C "$part" || die "$folder/$split.tar.gz cannot be unpacked; is the disk full?"
[ -d "$part/LibriSpeech/$split" ] || die "$folder/$split.tar.gz holds no LibriSpeech/$split"
mv "$part/LibriSpeech/$split" "$target"
touch "$mark"
rm -rf "$part" "$folder/$split.tar.gz"
