#!/usr/bin/env bash
# A causal LM as decoder of the looped encoder, on CMU AN4: encoder and CTC head learn before a frozen LM, then the LM
# learns, too (LoRA), and then, from its beginning again, to read what the CTC head hears.
#
# About an hour and a quarter on two cores. The LM is a folder or hub id with its tokenizer.
#
#   ./run_llm.sh --ngpu 0                                               # the LM of ../../../shared/data/llm/novels-3M
#   ./run_llm.sh --hugging_face_model_name_or_path HuggingFaceTB/SmolLM2-135M  # another, downloaded
#   ./run_llm.sh --ngpu 0 --stage decode --inference_args "--num_loops 4"
#   ./run_llm.sh --help                                                 # all options, those of run.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/run.sh" \
    --token_type hugging_face \
    --hugging_face_model_name_or_path ../../../shared/data/llm/novels-3M \
    --first_asr_config "conf/an4/train_llm.yaml conf/an4/train_llm_lora.yaml:decoder" \
    --asr_config conf/an4/train_llm_posterior.yaml \
    --inference_config "" \
    "$@"
