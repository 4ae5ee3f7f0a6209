#!/usr/bin/env bash
# A causal LM as decoder of the looped encoder, on LibriSpeech's smallest part: first encoder and projector learn, then
# the LM too (LoRA). The CTC head has characters, the LM its own tokens.
#
# About an hour on two cores. The LM is a folder or hub id with its tokenizer.
#
#   ./run_llm.sh --ngpu 0 --librispeech ../../../shared/data/mini_librispeech/LibriSpeech
#   ./run_llm.sh --hugging_face_model_name_or_path HuggingFaceTB/SmolLM2-135M  # another LM, downloaded
#   ./run_llm.sh --help                                                 # all options, those of run.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/run.sh" \
    --subset mini \
    --token_type hugging_face \
    --hugging_face_model_name_or_path ../../../shared/data/llm/novels-3M \
    --ctc_token_type char \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --first_asr_config conf/librispeech/train_llm_mini.yaml \
    --asr_config conf/librispeech/train_llm_mini_lora.yaml \
    --inference_config "" \
    --inference_asr_model latest.pth \
    "$@"
