#!/usr/bin/env bash
# Fewer word errors for the LM with draft heads of run_heads.sh, on CMU AN4: its trainings where they are not there yet, then
# 648 steps by the word errors of each utterance's 4 best texts (MWER). A quarter of an hour more on two cores.
#
#   ./run_mwer.sh --ngpu 0
#   ./run_mwer.sh --ngpu 0 --stage decode --inference_args "--drafts none --beam_size 4"
#   ./run_mwer.sh --ngpu 0 --stage train --first_asr_config "" --asr_args "--seed 1" --pretrained_model \
#       exp/asr_train_llm_heads_raw_hugging_face_novels-3M_sp/latest.pth  # the last training, of another seed
#   ./run_mwer.sh --help                                                  # all options, those of run.sh
set -euo pipefail
configs="conf/an4/train_llm.yaml conf/an4/train_llm_lora.yaml:decoder conf/an4/train_llm_posterior.yaml"
exec "$(dirname "${BASH_SOURCE[0]}")/run_llm.sh" \
    --first_asr_config "$configs conf/an4/train_llm_heads.yaml" \
    --asr_config conf/an4/train_llm_mwer.yaml \
    "$@"
