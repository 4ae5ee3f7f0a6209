#!/usr/bin/env bash
# Fewer word errors for the LM with draft heads of run_heads.sh, on run.sh's SYNTHETIC speech: its trainings where they are
# not there yet, then 400 steps by the word errors of each utterance's 4 best texts (MWER). Three minutes more on two cores.
#
#   ./run_mwer.sh                                                        # everything
#   ./run_mwer.sh --stage decode --inference_args "--drafts none --beam_size 4"
#   ./run_mwer.sh --stage train --first_asr_config "" --asr_args "--seed 1" --pretrained_model \
#       exp/asr_train_llm_heads_raw_hugging_face_lm_train_lm_ctc_char_sp/latest.pth  # the last training, of another seed
#   ./run_mwer.sh --help                                                 # all options, those of run.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/run_llm.sh" \
    --first_asr_config "conf/mini/train_llm.yaml conf/mini/train_llm_heads.yaml" \
    --asr_config conf/mini/train_llm_mwer.yaml \
    "$@"
