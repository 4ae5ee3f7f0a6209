#!/usr/bin/env bash
# Makes data/<set> of read speech. Called by asr.sh in the recipe's folder, with its ${python}; run.sh exports READ_SPEECH_*.
set -euo pipefail
# shellcheck source=/dev/null
. ../utils/log.sh

shared=../../../shared/data
read -ra py <<< "${python:-python3 -m espnet_larm}"
read -ra sets <<< "${READ_SPEECH_SETS:?is set by run.sh}"
read -ra roots <<< "${READ_SPEECH_ROOTS:-}"
if [ "${#roots[@]}" -eq 0 ]; then
    [ -f "$shared/read_speech/unpack.py" ] ||
        die "name the folder of your corpus: --corpus DIR (LibriSpeech's splits: openslr.org/12) or --manifests DIR"
    roots=(downloads/read_speech "$shared/mini_librispeech/LibriSpeech")
    mkdir -p downloads/read_speech
    "${py[@]}" "$shared/read_speech/unpack.py" downloads/read_speech
fi
"${py[@]}" prepare-data "$READ_SPEECH_LAYOUT" --root "${roots[@]}" --output_dir data --sets "${sets[@]}" --partial \
    --case "${READ_SPEECH_CASE:?is set by run.sh}"
