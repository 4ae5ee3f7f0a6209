#!/usr/bin/env bash
# A causal LM (Gemma 3 270M) on the frames of run.sh --system whisper, which must have been trained: first the projector
# learns the LM's embeddings of what is said, then encoder and projector learn what the frozen LM reads, then the LM
# learns too (LoRA). The CTC head has pieces of its own. Not run to its end yet; RESULTS.md has no figure of it.
#
# The LM is a folder or hub id with its tokenizer; on the hub Gemma's licence must be accepted first.
#
#   ./run_llm.sh --ngpu 0 --encoder ~/models/whisper-tiny.en --hugging_face_model_name_or_path ~/models/gemma-3-270m
#   ./run_llm.sh --help                                                 # all options, those of run.sh
set -euo pipefail
folder=$(dirname "${BASH_SOURCE[0]}")
begin_with=exp/asr_train_larm_whisper_23_raw_bpe200/valid.cer_ctc.ave.pth
exec "$folder/run.sh" \
    --system whisper \
    --token_type hugging_face \
    --hugging_face_model_name_or_path google/gemma-3-270m \
    --ctc_token_type bpe \
    --pretrained_model "$begin_with" \
    --first_asr_config "conf/read_speech/train_llm_align.yaml conf/read_speech/train_llm.yaml" \
    --asr_config conf/read_speech/train_llm_lora.yaml \
    --inference_config "" \
    --inference_asr_model latest.pth \
    "$@"
