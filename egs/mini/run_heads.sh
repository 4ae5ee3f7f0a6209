#!/usr/bin/env bash
# Draft heads for the LM of run_llm.sh, on run.sh's SYNTHETIC speech: its model, then heads that make one call of the LM
# yield up to 8 tokens. About 20 minutes on two cores, 8 of them run_llm.sh's own.
#
#   ./run_heads.sh                                                            # all of it learns together
#   ./run_heads.sh --asr_config conf/mini/train_llm_heads_alone.yaml          # heads alone
#   ./run_heads.sh --asr_config conf/mini/train_llm_heads_own.yaml            # alone, from what the model itself says
#   ./run_heads.sh --stage decode --inference_args "--drafts none"            # a token a call
#   ./run_heads.sh --help                                                     # all options, those of run.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/run_llm.sh" \
    --first_asr_config conf/mini/train_llm.yaml \
    --asr_config conf/mini/train_llm_heads.yaml \
    "$@"
