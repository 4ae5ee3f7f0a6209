#!/usr/bin/env bash
# Ways of adapting an LM to speech (conf/librispeech/adaptation_study.yaml), compared on mini_librispeech: all of the LM,
# with and without a KL penalty to the LM before, LoRA, added layers, and the projector alone.
#
# 25 runs of about 3 minutes on a core. It begins with the first training of run_llm.sh; called again, it goes on.
#
#   ./run_llm.sh --subset mini --ngpu 0 && ./run_study.sh --ngpu 0 --num_jobs 2
#   ./run_study.sh --report_only true              # the table of what is done
#   ./run_study.sh --help                          # all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
asr_exp=exp/asr_train_llm_mini_raw_hugging_face_novels-3M_ctc_char_train_clean_5_sp
# A training of before training sets were in the names.
[ -d "$asr_exp" ] || [ ! -d "${asr_exp/_train_clean_5/}" ] || asr_exp=${asr_exp/_train_clean_5/}
exec ../adaptation_study.sh \
    --plan conf/librispeech/adaptation_study.yaml \
    --asr_exp "$asr_exp" \
    --train_dir dump/raw/train_clean_5_sp \
    --dev_dir dump/raw/dev_clean_2 \
    --test_dirs "dump/raw/test_clean dump/raw/test_other" \
    "$@"
