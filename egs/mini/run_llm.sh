#!/usr/bin/env bash
# A causal LM as decoder of the looped encoder, on run.sh's SYNTHETIC speech: trains a small LM from the transcripts, then
# encoder, projector and LM together, in about 8 minutes on two cores, set-up included.
#
#   ./run_llm.sh                                          # everything
#   ./run_llm.sh --stage decode --inference_args "--ctc_weight 0.3"
#   ./run_llm.sh --help                                   # all options, those of run.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/run.sh" \
    --token_type hugging_face \
    --ctc_token_type char \
    --lm_train_text data/train/text \
    --lm_config conf/mini/train_lm.yaml \
    --asr_config conf/mini/train_llm.yaml \
    --inference_config "" \
    --inference_asr_model latest.pth \
    "$@"
