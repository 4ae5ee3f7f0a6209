#!/usr/bin/env bash
# Ways of adapting an LM to speech (conf/an4/adaptation_study.yaml), compared on CMU AN4: all of the LM, with and without a
# KL penalty to the LM before, LoRA, added layers of all kinds and places, and the projector alone.
#
# 29 runs of about 3 minutes on a core. It begins with the encoder of run_posterior.sh; called again, it goes on.
#
#   ./run_posterior.sh --ngpu 0 && ./run_study.sh --ngpu 0 --num_jobs 2
#   ./run_study.sh --report_only true              # the table of what is done
#   ./run_study.sh --help                          # all options
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ../adaptation_study.sh \
    --plan conf/an4/adaptation_study.yaml \
    --asr_exp exp/asr_train_llm_posterior_raw_hugging_face_novels-3M_sp \
    --train_dir dump/raw/train_nodev_sp \
    --dev_dir dump/raw/train_dev \
    --test_dirs dump/raw/test \
    "$@"
