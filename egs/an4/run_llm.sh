#!/usr/bin/env bash
# A causal LM as decoder of the looped encoder, on CMU AN4: first encoder and projector learn, then the LM too (LoRA).
#
# About three quarters of an hour on two cores. The LM is a folder or hub id with its tokenizer.
#
#   ./run_llm.sh --ngpu 0                                               # the LM of ../../../shared/data/llm/novels-3M
#   ./run_llm.sh --hugging_face_model_name_or_path HuggingFaceTB/SmolLM2-135M  # another, downloaded
#   ./run_llm.sh --ngpu 0 --stage decode --inference_args "--num_loops 4"
#   ./run_llm.sh --help                                                 # all options, those of run.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/run.sh" \
    --token_type hugging_face \
    --hugging_face_model_name_or_path ../../../shared/data/llm/novels-3M \
    --first_asr_config conf/an4/train_llm.yaml \
    --asr_config conf/an4/train_llm_lora.yaml \
    --inference_config "" \
    "$@"
