#!/usr/bin/env bash
# Draft heads for the LM of run_llm.sh, on mini_librispeech: its two trainings where they are not there yet, then heads
# alone, which make one call of the LM yield up to 8 tokens; the model without them stays bit-identical.
#
#   ./run_heads.sh --ngpu 0
#   ./run_heads.sh --help                                                     # all options, those of run.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/run_llm.sh" \
    --first_asr_config "conf/librispeech/train_llm_mini.yaml conf/librispeech/train_llm_mini_lora.yaml" \
    --asr_config conf/librispeech/train_llm_mini_heads.yaml \
    "$@"
