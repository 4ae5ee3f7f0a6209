#!/usr/bin/env bash
# The LM of run_llm.sh reads the CTC head's posteriors, in the LM's own embeddings (projector: posterior), on CMU AN4: the two
# trainings of run_llm.sh where they are not there yet, then a third, which begins with their encoder and CTC head. A
# quarter of an hour more on two cores. The CTC head has the LM's tokens.
#
#   ./run_posterior.sh --ngpu 0
#   ./run_posterior.sh --ngpu 0 --stage decode --inference_args "--ctc_weight 0.3"
#   ./run_posterior.sh --help                                                # all options, those of run.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/run_llm.sh" \
    --first_asr_config "conf/an4/train_llm.yaml conf/an4/train_llm_lora.yaml:decoder" \
    --asr_config conf/an4/train_llm_posterior.yaml \
    "$@"
