#!/usr/bin/env bash
# The looped encoder on CMU AN4: 42 minutes of spelled names, numbers and dates by 74 speakers; test: 10 other speakers.
#
# About an hour on two cores. The first time it makes the repository's .venv (minutes, 7 GB).
#
#   ./run.sh                       # with a GPU
#   ./run.sh --ngpu 0              # without
#   ./run.sh --an4_root /data/an4  # a copy of the corpus; default: ../../../shared/data/an4, else it is downloaded
#   ./run.sh --stage decode --inference_args "--num_loops 4"
#   ./run.sh --help                # all options
set -euo pipefail
export ESPNET_LARM_CALLER=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=/dev/null
. ../utils/log.sh
# shellcheck source=/dev/null
. ../utils/options.sh

# Options
an4_root=  # folder that holds AN4's etc/ and audio
# End of options
print_recipe_help run.sh "$@"
take_option an4_root "$@"
an4_root=$(callers_folder "$an4_root")
[ -z "$an4_root" ] || export AN4_ROOT=$an4_root

exec ../asr.sh \
    --train_set train_nodev \
    --valid_set train_dev \
    --test_sets test \
    --token_type char \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --feats_normalize utterance_mvn \
    --asr_config conf/an4/train_larm.yaml \
    --inference_config conf/decode_ctc_greedy.yaml \
    --inference_asr_model latest.pth \
    --inference_nj 1 \
    "${rest[@]}"
