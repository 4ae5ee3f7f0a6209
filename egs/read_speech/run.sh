#!/usr/bin/env bash
# Read speech: a corpus in LibriSpeech's layout, or your own recordings in a table, with a choice of two systems.
#
# --system filterbank trains the looped encoder from filter banks, --system whisper on frozen frames of a pre-trained
# encoder (Whisper tiny.en, of the hub or a folder), which stage 10 keeps on the disk. RESULTS.md says what they reach.
# The first time the repository's .venv is made (minutes, 7 GB).
#
# Your own recordings: a table of them for each set, NAME.tsv, whose first line names its columns, audio, text and (if you
# know it) speaker, with tabs between; or NAME.jsonl with these keys. Paths of audio are relative to the table.
#
#   ./run.sh --corpus /data/LibriSpeech --train train-clean-100 --dev dev-clean --tests "clean=test-clean other=test-other"
#   ./run.sh --manifests my --train train.tsv --dev dev.tsv --tests test=test.jsonl
#   ./run.sh --system whisper --encoder ~/models/whisper-tiny.en --ngpu 0
#   ./run.sh --stage decode --inference_args "--num_loops 2"
#   ./run.sh --help                                          # all options
set -euo pipefail
export ESPNET_LARM_CALLER=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=/dev/null
. ../utils/log.sh
# shellcheck source=/dev/null
. ../utils/options.sh

# Options
corpus=  # folders that hold splits in LibriSpeech's layout, separated by spaces; ../../../shared/data if it is there
manifests=  # instead: folder of tables of your own recordings
train_set=train  # name of the training set; another for another choice of splits, which then has its own folders
train="train-clean-7,train-cv,train-so"  # splits, or manifests, to train on
dev="dev-cv"  # to develop on
tests="test_clean=test-clean test_other=test-other test_cv=test-cv"  # to test on, name=split,split each
system=filterbank  # filterbank or whisper
case=lower  # letters of the transcripts: lower, whose words an LM knows as tokens; or keep, for them as they are
encoder=openai/whisper-tiny.en  # folder or hub id of the pre-trained encoder
# End of options
print_recipe_help run.sh "$@"
rest=("$@")
for name in corpus manifests train_set train dev tests case system encoder; do take_option "$name" ${rest[@]+"${rest[@]}"}; done

[ -z "$corpus" ] || [ -z "$manifests" ] || die "--corpus and --manifests: give one of them"
READ_SPEECH_ROOTS=
for folder in $corpus $manifests; do
    READ_SPEECH_ROOTS+="$(callers_folder "$folder") "
done
READ_SPEECH_LAYOUT=${manifests:+manifest}
export READ_SPEECH_ROOTS READ_SPEECH_LAYOUT=${READ_SPEECH_LAYOUT:-librispeech}
export READ_SPEECH_CASE=$case
export READ_SPEECH_SETS="$train_set=$train dev=$dev $tests"
test_sets=
for set in $tests; do test_sets+="${set%%=*} "; done

case $system in
    filterbank)
        options=(--asr_config conf/read_speech/train_larm.yaml)
        # Another configuration begins from nothing, unless it names its own start.
        [[ " ${rest[*]-}" == *" --asr"[_-]"config"* ]] ||
            options+=(--first_asr_config conf/read_speech/train_larm_start.yaml)
        ;;
    whisper)
        options=(--asr_config conf/read_speech/train_larm_whisper_23.yaml --store_frames true)
        options+=(--frontend_model "$encoder")
        ;;
    *) die "--system $system is not known; allowed: filterbank, whisper" ;;
esac

exec ../asr.sh \
    --train_set "$train_set" \
    --valid_set dev \
    --test_sets "${test_sets% }" \
    --token_type bpe \
    --nbpe 200 \
    --max_wav_duration 30 \
    --feats_normalize utterance_mvn \
    --inference_config conf/decode_ctc_greedy.yaml \
    --inference_asr_model valid.cer_ctc.ave.pth \
    "${options[@]}" \
    ${rest[@]+"${rest[@]}"}
