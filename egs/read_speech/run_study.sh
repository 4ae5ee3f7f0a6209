#!/usr/bin/env bash
# Ways of adapting Gemma 3 270M to speech (conf/read_speech/adaptation_study.yaml), compared on read speech: all of it,
# LoRA, and added layers of two kinds, at 12.5 speech tokens a second.
#
# 11 runs of an hour or two on a core. It begins with the encoder of run_llm.sh; called again, it goes on.
#
#   ./run_llm.sh --ngpu 0 && ./run_study.sh --ngpu 0 --llm ~/models/gemma-3-270m
#   ./run_study.sh --report_only true              # the table of what is done
#   ./run_study.sh --help                          # all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ../adaptation_study.sh \
    --plan conf/read_speech/adaptation_study.yaml \
    --asr_exp exp/asr_train_llm_posterior_raw_hugging_face_gemma-3-270m_ctc_bpe200 \
    --train_dir dump/raw/train \
    --dev_dir dump/raw/dev \
    --test_dirs "dump/raw/test_other dump/raw/test_cv" \
    --case lower \
    "$@"
