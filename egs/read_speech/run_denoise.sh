#!/usr/bin/env bash
# A small LM (novels-3M) that edits what the packaged model whisper-frames hears, trained on text alone: a Denoising LM.
# Its drafts are made of novels by a confusion model of that model's errors on the development set, or by eSpeak NG and
# the model (--by speech). RESULTS.md says what it reaches.
#
# Needs the sets of run.sh (run.sh --system whisper --stop_stage filter). Steps, each of which is left out where its
# result is there:
#   drafts  CTC hypotheses of development and test sets, and with --train_copies of the training set, with dropout
#   text    the novels without lines of the test sets, and the LM for small letters
#   simulate, compare    drafts of the novels in shards, and how far they are from the development set's
#   train   the editor, then with --mwer true again by word errors
#   decode  the weight of CTC on the development set, and the edits of the test sets
#   rival   CTC with a beam and a word trigram of the same novels, whose weight the development set chooses
#   score   words fixed and broken, of the edits and of the rival
# For a fair test: test speakers are in neither the training set nor the development set, or the confusion model is
# refused; the test sets are read at the end, once.
#
#   ./run_denoise.sh --encoder ~/models/whisper-tiny.en --llm ~/models/novels-3M --text ~/text/novels.txt.gz
#   ./run_denoise.sh --stop_step simulate ...
set -euo pipefail
export ESPNET_LARM_CALLER=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=/dev/null
. ../utils/log.sh
# shellcheck source=/dev/null
. ../utils/options.sh

# Options
llm=../../../shared/data/llm/novels-3M  # folder of the LM, whose letters are capitals
text=../../../shared/data/text/novels_pre1900.norm.txt.gz  # text to learn from, a sentence a line, in capitals
encoder=openai/whisper-tiny.en  # absolute path or hub id of the model's pre-trained encoder
dump=dump/raw  # folder of the data folders
dev_set=dev  # development set: confusions, weights and the choice of epochs
test_sets="test_clean test_other test_cv"  # test sets
train_set=train  # training set of the model, whose real drafts are mixed in
train_copies=0  # drafts of each training utterance, with dropout and SpecAugment; 0 mixes no real ones in
real_fraction=0.2  # real ones among all drafts
by=confusions  # confusions or speech: what makes the drafts
wer_percent=45  # confusions: word errors per 100 words
unit=character  # confusions: character or piece
lines=300000  # lines of the text; by speech, 3000 are an hour of one core
seed=0  # seed of drafts and training
train_args=  # further options of the trainings, such as "--max_epoch 1 --num_iters_per_epoch 100"
mwer=false  # go on by word errors of the best edits
beam_size=8  # best edits, and as many CTC hypotheses
ngram_weights="0.5 1 1.25"  # weights of the rival's trigram that are tried, each with a bonus of 1 a word
expdir=exp/denoise  # folder of all results
python="python3 -m espnet_larm"  # command that runs Python, of one or more words
stop_step=score  # last step: drafts, text, simulate, compare, train, decode, rival or score
# End of options
parse_options run_denoise.sh "$@"
[[ $by =~ ^(confusions|speech)$ ]] || die "--by $by is not known; allowed: confusions, speech"
[[ $unit =~ ^(character|piece)$ ]] || die "--unit $unit is not known; allowed: character, piece"
steps=(drafts text simulate compare train decode rival score)
[[ " ${steps[*]} " == *" $stop_step "* ]] || die "--stop_step $stop_step is not known; allowed: ${steps[*]}"
for set in $dev_set $test_sets; do
    [ -f "$dump/$set/wav.scp" ] || die "$dump/$set is missing; run.sh --system whisper --stop_stage filter makes it"
done
read -ra py <<< "$python"
repository=$(cd ../.. && pwd)
[ -d "$repository/espnet_larm" ] || repository=$PWD
[ ! -d "$repository/espnet_larm" ] || export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}"
export LC_ALL=C.UTF-8 PYTHONUNBUFFERED=1
[[ $expdir = /* ]] || expdir=$PWD/$expdir  # the model names the LM's folder, and is loaded from anywhere
model=$expdir/model config=conf/read_speech/train_llm_denoise.yaml
ctc=(--asr_train_config "$model/config.yaml" --asr_model_file "$model/valid.cer_ctc.ave.pth")
ctc_text() { echo "$expdir/drafts/$1/1best_recog/text"; }
decode() { # OUTPUT_DIR SET OPTION...
    [ ! -f "$1/.done" ] || return 0
    "${py[@]}" decode --data_path_and_name_and_type "$dump/$2/wav.scp,speech,sound" --output_dir "$1" "${@:3}"
    touch "$1/.done"
}

step_drafts() {
    local set
    [ -f "$model/config.yaml" ] || "${py[0]}" - "$model" "$encoder" << 'END'
import sys
from pathlib import Path

import espnet_larm

pack = Path(espnet_larm.__file__).parent / "models" / "whisper-frames.zip"
espnet_larm.unpack(pack, sys.argv[1], encoder=sys.argv[2])
END
    for set in $dev_set $test_sets; do decode "$expdir/drafts/$set" "$set" "${ctc[@]}" --ctc_weight 1.0; done
    [ "$train_copies" -eq 0 ] || "${py[@]}" draft-speech "${ctc[@]}" --data_dir "$dump/$train_set" \
        --copies "$train_copies" --seed "$seed" --output_dir "$expdir/drafts/$train_set"
}

step_text() {
    local set tests=()
    for set in $test_sets; do tests+=("$dump/$set/text"); done
    [ -f "$expdir/text.txt.gz" ] || "${py[@]}" remove-overlap --text "$text" --held_out_text "${tests[@]}" \
        --outpath "$expdir/text.txt.gz"
    [ -d "$expdir/llm" ] || "${py[@]}" lower-case-lm --llm "$llm" --output_dir "$expdir/llm"
    [ -f "$expdir/tokens/tokens.txt" ] || "${py[@]}" make-tokens --token_type hugging_face --llm "$expdir/llm" \
        --text "$dump/$dev_set/text" --check_text "$dump/$dev_set/text" --output_dir "$expdir/tokens"
    [ -f "$expdir/ctc_tokens.txt" ] || "${py[0]}" - "$model/config.yaml" "$expdir/ctc_tokens.txt" << 'END'
import sys
from pathlib import Path

import yaml

tokens = yaml.safe_load(Path(sys.argv[1]).read_text())["token_list"]
Path(sys.argv[2]).write_text("".join(f"{token}\n" for token in tokens))
END
}

step_simulate() {
    local set copy tests=() folders=("$dump/$dev_set") options=()
    for set in $test_sets; do tests+=("$dump/$set"); done
    [ ! -d "$dump/$train_set" ] || folders+=("$dump/$train_set")
    [ "$unit" = character ] || options+=(--bpemodel "$model/bpe.model")
    if [ "$by" = confusions ]; then
        "${py[@]}" learn-confusions --text "$dump/$dev_set/text" --drafts "$(ctc_text "$dev_set")" \
            --data_dirs "${folders[@]}" --held_out_dirs "${tests[@]}" --outpath "$expdir/confusions_$unit.json" \
            ${options[@]+"${options[@]}"}
        options+=(--confusions "$expdir/confusions_$unit.json" --wer_percent "$wer_percent")
    else
        options=("${ctc[@]}")
    fi
    if [ "$train_copies" -gt 0 ]; then
        options+=(--real_fraction "$real_fraction" --real_text)
        for ((copy = 1; copy <= train_copies; copy++)); do options+=("$dump/$train_set/text"); done
        options+=(--real_drafts)
        for ((copy = 1; copy <= train_copies; copy++)); do options+=("$expdir/drafts/$train_set/text$copy"); done
    fi
    "${py[@]}" simulate-drafts --text "$expdir/text.txt.gz" --case lower --lines "$lines" --seed "$seed" \
        --lines_per_shard "$((lines < 20000 ? lines : 20000))" --output_dir "$shards" "${options[@]}"
}

step_compare() {
    "${py[@]}" compare-drafts --text "$shards/text/split.0" --drafts "$shards/draft/split.0" \
        --other_text "$dump/$dev_set/text" --other_drafts "$(ctc_text "$dev_set")" \
        --outpath "$expdir/distance_$by.json"
}

train() { # CONFIG OUTPUT_DIR INITIAL_WEIGHTS
    awk '{ id = $1; sub(/^[^ ]+ ?/, ""); print id, (length($0) ? length($0) : 1) }' "$dump/$dev_set/text" \
        > "$expdir/dev_shape"
    # shellcheck disable=SC2086 # train_args holds words
    "${py[@]}" -m espnet2.bin.asr_train --config "$repository/$1" --output_dir "$2" --ngpu 0 --seed "$seed" \
        --init_param "$3" \
        --use_preprocessor true --token_type hugging_face --token_list "$expdir/tokens/tokens.txt" \
        --bpemodel "$expdir/llm" --decoder_conf "llm=$expdir/llm" --frontend_conf "model=$encoder" \
        --frontend_conf fs=16000 --cleaner none --g2p none --resume true \
        --model_conf "ctc_token_list=$expdir/ctc_tokens.txt" --preprocessor speech_llm \
        --preprocessor_conf "ctc_token_list=$expdir/ctc_tokens.txt" --preprocessor_conf ctc_token_type=bpe \
        --preprocessor_conf "ctc_bpemodel=$model/bpe.model" \
        --train_data_path_and_name_and_type "$shards/text,text,text" \
        --train_data_path_and_name_and_type "$shards/draft,draft,text" --train_shape_file "$shards/shape" \
        --valid_data_path_and_name_and_type "$dump/$dev_set/text,text,text" \
        --valid_data_path_and_name_and_type "$(ctc_text "$dev_set"),draft,text" \
        --valid_shape_file "$expdir/dev_shape" $train_args
}

step_train() {
    # The CTC model's parts, as they are; the LM's weights come from its folder.
    train "$config" "$expdir/edit_$by" "$model/valid.cer_ctc.ave.pth"
    ! "$mwer" || train "${config%.yaml}_mwer.yaml" "$expdir/edit_${by}_mwer" "$expdir/edit_$by/valid.wer_edit.best.pth"
}

step_decode() {
    local set edit=(--asr_train_config "$edited/config.yaml" --asr_model_file "$edited/$best" --encoder "$encoder")
    [ -f "$edited/decode_edit.yaml" ] || "${py[@]}" calibrate-edits "${edit[@]}" --data_dir "$dump/$dev_set" \
        --beam_size "$beam_size" --device cpu
    for set in $test_sets; do
        decode "$edited/edits/$set" "$set" "${edit[@]}"
        decode "$edited/combined/$set" "$set" "${edit[@]}" --config "$edited/decode_edit.yaml"
    done
}

step_rival() {
    local set weight chosen
    if [ ! -f "$expdir/3gram.arpa" ]; then
        gzip -cd "$expdir/text.txt.gz" | awk -v most="$lines" 'NR <= most { print tolower($0) }' > "$expdir/ngram.txt"
        "${py[@]}" train-ngram --text "$expdir/ngram.txt" --token_type word --min_count 2 --ngram_num 3 \
            --outpath "$expdir/3gram.arpa"
    fi
    local rival=("${ctc[@]}" --ctc_weight 1.0 --beam_size 10 --ngram_file "$expdir/3gram.arpa" --word_bonus 1)
    for weight in $ngram_weights; do
        decode "$expdir/rival/$dev_set/$weight" "$dev_set" "${rival[@]}" --ngram_weight "$weight"
    done
    chosen=$(for weight in $ngram_weights; do
        echo "$(wrong_words "$dev_set" "$expdir/rival/$dev_set/$weight/1best_recog/text") $weight"
    done | sort -n | head -n 1 | cut -d " " -f 2)
    log "weight of the rival's n-gram, chosen on $dev_set: $chosen"
    for set in $test_sets; do decode "$expdir/rival/$set" "$set" "${rival[@]}" --ngram_weight "$chosen"; done
}

wrong_words() { # SET HYPOTHESES: prints their word error rate
    "${py[@]}" score-edits --data_dirs "$dump/$1" --drafts "$2" --edits "$2" | awk -F ' *[|] *' 'NR == 3 { print $4 }'
}

step_score() {
    local set kind folders=() drafts=()
    for set in $test_sets; do folders+=("$dump/$set") drafts+=("$(ctc_text "$set")"); done
    for kind in "$edited/edits" "$edited/combined" "$expdir/rival"; do
        local edits=()
        for set in $test_sets; do edits+=("$kind/$set/1best_recog/text"); done
        log "$kind"
        "${py[@]}" score-edits --data_dirs "${folders[@]}" --drafts "${drafts[@]}" --edits "${edits[@]}" |
            tee "$kind/score.md"
    done
}

mkdir -p "$expdir"
shards=$expdir/shards_$by edited=$expdir/edit_$by best=valid.wer_edit.best.pth
! "$mwer" || edited+=_mwer best=valid.wer_expected.best.pth
for step in "${steps[@]}"; do
    log "step $step"
    "step_$step"
    [ "$step" != "$stop_step" ] || break
done
