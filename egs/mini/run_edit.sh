#!/usr/bin/env bash
# An LM that edits what CTC recognises, all of it in one call, on run.sh's SYNTHETIC speech: run_llm.sh's model where it is
# not there yet, then 6 epochs in which it learns to edit. Not run to its end yet.
#
#   ./run_edit.sh                                                                # everything
#   ./run_edit.sh --stage decode --inference_args "--edit_passes 2"
#   ./run_edit.sh --stage decode --inference_args "--ctc_weight 1.0"             # the hypotheses that it edits
#   ./run_edit.sh --help                                                         # all options, those of run.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/run_llm.sh" \
    --first_asr_config conf/mini/train_llm.yaml \
    --asr_config conf/mini/train_llm_edit.yaml \
    "$@"
