#!/usr/bin/env bash
# Draft heads for the LM of run_posterior.sh, on CMU AN4: its trainings where they are not there yet, then heads that make
# one call of the LM yield up to 8 tokens, learning with all else. Twenty minutes more on two cores.
#
#   ./run_heads.sh --ngpu 0
#   ./run_heads.sh --ngpu 0 --asr_config conf/an4/train_llm_heads_own.yaml  # from what the model itself says
#   ./run_heads.sh --ngpu 0 --stage decode --inference_args "--drafts longer"
#   ./run_heads.sh --help                                                     # all options, those of run.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/run_llm.sh" \
    --first_asr_config "conf/an4/train_llm.yaml conf/an4/train_llm_lora.yaml:decoder conf/an4/train_llm_posterior.yaml" \
    --asr_config conf/an4/train_llm_heads.yaml \
    "$@"
