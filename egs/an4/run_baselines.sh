#!/usr/bin/env bash
# Trains the looped encoder and what it is measured against (conf/an4/baselines.yaml) alike, and compares them.
#
# 18 runs of about 10 minutes on a core: 2 hours on two cores. Called again, it resumes what is not done, and draws.
#
#   ./run_baselines.sh                            # on a GPU
#   ./run_baselines.sh --ngpu 0 --num_jobs 2      # on two cores
#   ./run_baselines.sh --report_only true         # the table of what is done
set -euo pipefail
export ESPNET_LARM_CALLER=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=/dev/null
. ../utils/log.sh
# shellcheck source=/dev/null
. ../utils/options.sh

# Options
ngpu=1  # GPUs of each run; 0 trains on the CPU
num_jobs=1  # runs at once
plan=conf/an4/baselines.yaml  # the grid, from the repository's root
exp_dir=exp/baselines  # a folder a run, and RESULTS.md
an4_root=  # as run.sh has it
feats_normalize=  # as run.sh has it; global_mvn for streams
report_only=false  # train nothing
# End of options
parse_options "$PWD/run_baselines.sh" "$@"

[ -f ../../"$plan" ] || die "--plan $plan: no such file in the repository"
options=(--ngpu "$ngpu")
[ -z "$feats_normalize" ] || options+=(--feats_normalize "$feats_normalize")
an4_root=$(callers_folder "$an4_root")
[ -z "$an4_root" ] || options+=(--an4_root "$an4_root")
report=()
! "$report_only" || report+=(--report_only)
"$report_only" || [ -f exp/asr_stats_raw_char_train_nodev_sp/train/speech_shape ] || ./run.sh "${options[@]}" --stop_stage stats
# shellcheck source=/dev/null
. ./path.sh
PATH=${ESPNET_LARM_VENV:-$PWD/../../.venv}/bin:$PATH
PYTHONPATH=$PWD/../..:$PWD/../../tools exec python3 -m studies.grid.run --plan ../../"$plan" --recipe run.sh --exp_dir "$exp_dir" \
    --ref_dir dump/raw/test --decoded decode_ctc_greedy_asr_model_latest/test --num_jobs "$num_jobs" \
    ${report[@]+"${report[@]}"} -- "${options[@]}"
