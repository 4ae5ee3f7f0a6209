#!/usr/bin/env bash
# Makes the synthetic corpus in downloads/synthetic, and of it data/{train,dev,test}. Called by asr.sh.
set -euo pipefail
# shellcheck source=/dev/null
. ../utils/log.sh

minutes=20  # minutes of speech in all splits; silences around that of train and dev come on top
seed=1
corpus=downloads/synthetic

read -ra py <<< "${python:-python3 -m espnet_larm}"
if [ ! -d "$corpus" ]; then
    log "eSpeak NG -> $corpus ($minutes minutes of synthetic speech)"
    mkdir -p "$(dirname "$corpus")"
    "${py[@]}" synthesise-speech --output_dir "$corpus" --minutes "$minutes" --seed "$seed"
fi
"${py[@]}" prepare-data librispeech --root "$corpus" --output_dir data \
    --sets train=train-mini dev=dev-mini test=test-mini
