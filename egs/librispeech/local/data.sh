#!/usr/bin/env bash
# Makes data/<set> of LibriSpeech. Called by asr.sh in the recipe's folder, with its ${python}; run.sh exports LIBRISPEECH*.
#
# The corpus is LIBRISPEECH (run.sh --librispeech), else downloads/LibriSpeech, filled from LIBRISPEECH_MIRROR with the
# splits that the sets need. Every split must have as many utterances as LibriSpeech's; with --subset mini, a part is
# enough, and the output says that it is one.
set -euo pipefail
# shellcheck source=/dev/null
. ../utils/log.sh

find_corpus() { # FOLDER: prints the folder that holds the splits
    local root
    for root in "$1" "$1/LibriSpeech"; do
        if compgen -G "$root/*-*/*/*/*.trans.txt" > /dev/null; then
            echo "$root"
            return
        fi
    done
    die "--librispeech $1 holds no <split>/<speaker>/<chapter>/*.trans.txt; name the folder of train-clean-100 etc."
}

read -ra sets <<< "${LIBRISPEECH_SETS:?is set by run.sh}"
if [ -n "${LIBRISPEECH:-}" ]; then
    root=$(find_corpus "$LIBRISPEECH")
else
    root=downloads/LibriSpeech
    mapfile -t splits < <(printf '%s\n' "${sets[@]#*=}" | tr ',' '\n' | sort -u)
    for split in "${splits[@]}"; do
        local/download_split.sh "$split" "$LIBRISPEECH_MIRROR" local/archives.txt downloads
    done
fi
options=(--case "${LIBRISPEECH_CASE:-keep}")
[ "${LIBRISPEECH_SUBSET:-}" != mini ] || options+=(--partial)
read -ra py <<< "${python:-python3 -m espnet_larm}"
"${py[@]}" prepare-data librispeech --root "$root" --output_dir data --sets "${sets[@]}" \
    "${options[@]}"
