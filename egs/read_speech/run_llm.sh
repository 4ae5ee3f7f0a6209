#!/usr/bin/env bash
# A causal LM (Gemma 3 270M) on run.sh --system whisper, which must have been trained: the LM reads what the CTC head
# recognises, in embeddings of its own, and learns to write it down (LoRA). RESULTS.md says what it reaches.
#
# The LM can read the encoder's frames instead. That takes three trainings, and nobody has run them to their end: the
# projector learns the LM's embeddings of what is said; encoder and projector learn what the frozen LM reads
# (--first_asr_config with train_llm_align.yaml and train_llm.yaml); the LM learns too (--asr_config with train_llm_lora.yaml).
#
# The LM is a folder or hub id with its tokenizer; on the hub Gemma's licence must be accepted first.
#
#   ./run_llm.sh --ngpu 0 --encoder ~/models/whisper-tiny.en --hugging_face_model_name_or_path ~/models/gemma-3-270m
#   ./run_llm.sh --help                                                 # all options, those of run.sh
set -euo pipefail
folder=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=/dev/null
. "$folder/../utils/log.sh"
# shellcheck source=/dev/null
. "$folder/../utils/options.sh"
train_set=train
take_option train_set "$@"
[ "$train_set" = train ] && set_tag='' || set_tag=_$train_set
begin_with=exp/asr_train_larm_whisper_23_raw_bpe200$set_tag/valid.cer_ctc.ave.pth
exec "$folder/run.sh" \
    --system whisper \
    --token_type hugging_face \
    --hugging_face_model_name_or_path google/gemma-3-270m \
    --ctc_token_type bpe \
    --pretrained_model "$begin_with" \
    --asr_config conf/read_speech/train_llm_posterior.yaml \
    --inference_config "" \
    --inference_asr_model latest.pth \
    "$@"
