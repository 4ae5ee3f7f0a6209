#!/usr/bin/env bash
# Ways of adapting an LM to speech, compared on the stored outputs of a trained encoder: what each recognises, and what it loses
# of text. What the run_study.sh of all recipes share; called from a recipe's folder.
#
# Called again, it goes on where it was.
#
#   ../adaptation_study.sh --plan conf/an4/adaptation_study.yaml --asr_exp exp/asr_x --train_dir dump/raw/train \
#       --dev_dir dump/raw/dev --test_dirs dump/raw/test
set -euo pipefail
here=$PWD
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/utils/log.sh"
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/utils/options.sh"

# Options
plan=  # YAML of the ways, from the repository's root
asr_exp=  # experiment whose encoder is read
train_dir=  # data folder to learn on
dev_dir=  # data folder that learning rates are chosen on
test_dirs=  # data folders of test sets, in quotes
text=../../../shared/data/text/novels_pre1900.norm.txt.gz  # text in the LM's style, a sentence a line, plain or .gz
case=keep  # letters of that text: keep, for them as they are; or lower, for an LM whose words are in small letters
held_out_lines=6000  # last lines of it, which the LM has not seen and no way learns from
max_lines=500  # of those, how many are read to measure
text_kl_lines=20000  # first lines of it, which ways with a KL penalty learn from
llm=  # folder or hub id: where the experiment's LM is now
exp_dir=exp/adaptation_study  # a folder a run, RESULTS.md and the picture
ngpu=1  # 0 computes on the CPU
num_jobs=1  # runs at once
report_only=false  # train nothing
# End of options
parse_options "${BASH_SOURCE[0]}" "$@"
cd "$here"

case $case in keep | lower) ;; *) die "--case $case is not known; allowed: keep, lower" ;; esac
for name in plan asr_exp train_dir dev_dir test_dirs; do
    [ -n "${!name}" ] || die "--$name is missing; call the run_study.sh of a recipe"
done
[ -f ../../"$plan" ] || die "--plan $plan: no such file in the repository"
[ -f "$text" ] || die "--text $text: no such file; name a text in the LM's style, one sentence a line"
[ -f "$asr_exp/latest.pth" ] || die "--asr_exp $asr_exp: no latest.pth; train the model first"

mkdir -p "$exp_dir"
read_text() { if [[ $text = *.gz ]]; then gzip -cd "$text"; else cat "$text"; fi; }
unpack() { if [ "$case" = lower ]; then read_text | tr '[:upper:]' '[:lower:]'; else read_text; fi; }
name=$(basename "$text" .gz)
held_out=$exp_dir/${name}_last_${held_out_lines}.txt text_kl=$exp_dir/${name}_first_${text_kl_lines}.txt
if [ ! -f "$held_out" ] || [ ! -f "$text_kl" ]; then
    num_lines=$(unpack | wc -l)
    ((num_lines >= held_out_lines + text_kl_lines)) ||
        die "--text $text has $num_lines lines, too few for --held_out_lines $held_out_lines and others for" \
            "--text_kl_lines $text_kl_lines"
fi
for file in "$held_out" "$text_kl"; do
    [ -f "$file" ] && continue
    log "$text: $file"
    # Not head, which would end before what it reads from does: an error under pipefail.
    if [ "$file" = "$held_out" ]; then unpack | tail -n "$held_out_lines"; else unpack | sed -n "1,${text_kl_lines}p"; fi \
        > "$file.part"
    mv "$file.part" "$file"
done
options=()
[ -z "$llm" ] || options+=(--llm "$llm")
! "$report_only" || options+=(--report_only)
# shellcheck source=/dev/null
. ./path.sh
PATH=${ESPNET_LARM_VENV:-$PWD/../../.venv}/bin:$PATH
# shellcheck disable=SC2086  # names of folders
PYTHONPATH=$PWD/../..:$PWD/../../tools exec python3 -m studies.adaptation.run --plan ../../"$plan" \
    --asr_train_config "$asr_exp/config.yaml" --asr_model_file "$asr_exp/latest.pth" \
    --train_dir "$train_dir" --dev_dir "$dev_dir" --test_dirs $test_dirs --text "$held_out" \
    --max_lines "$max_lines" --text_kl_text "$text_kl" --exp_dir "$exp_dir" --ngpu "$ngpu" \
    --num_jobs "$num_jobs" ${options[@]+"${options[@]}"}
