#!/usr/bin/env bash
# The looped encoder on LibriSpeech: read English, 100, 460 or 960 hours for training, four sets to develop and test on.
#
# About a day on a GPU for 100 hours (an estimate: nobody has run it yet), a quarter of an hour on two cores for `mini`.
# conf/librispeech/ also has the looped encoder's baselines, ESPnet's conformer, and LMs as decoders (--asr_config).
# The corpus is read where it lies; without --librispeech it is downloaded from openslr.org, checked and resumed
# (7.6 GB for 100 hours, 60 GB for 960). The first time the repository's .venv is made (minutes, 7 GB).
#
#   ./run.sh --librispeech /data/LibriSpeech                # 100 hours; the folder that holds train-clean-100 etc.
#   ./run.sh --subset 960                                   # downloads all of it
#   ./run.sh --subset mini --ngpu 0                         # a smoke test of all stages: 5 hours from openslr.org/31
#   ./run.sh --subset mini --ngpu 0 --librispeech ../../../shared/data/mini_librispeech/LibriSpeech
#   ./run.sh --stage decode --inference_args "--num_loops 4"
#   ./run.sh --stage decode --ngram 4-gram --inference_args "--ngram_weight 1.5 --word_bonus 1"
#   ./run.sh --help                                         # all options of asr.sh
set -euo pipefail
export ESPNET_LARM_CALLER=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=/dev/null
. ../utils/log.sh
# shellcheck source=/dev/null
. ../utils/options.sh

# Options
librispeech=  # folder that holds LibriSpeech's splits; downloaded if not given
subset=100  # training data: 100, 460 or 960 (hours), or mini (train-clean-5, a smoke test)
ngram=  # word n-gram of openslr.org/11 to score CTC's beam with, downloaded: 3-gram.pruned.1e-7, 3-gram or 4-gram
case=keep  # letters of the transcripts: keep, capitals; or lower, whose words an LM knows as tokens, in sets of their own
mirror=https://www.openslr.org/resources  # where to download, such as https://openslr.elda.org/resources
# End of options
print_recipe_help run.sh "$@"
rest=("$@")
for name in librispeech subset ngram case mirror; do take_option "$name" ${rest[@]+"${rest[@]}"}; done

# The splits of each set: `set=split,split`.
evaluation="test_clean=test-clean test_other=test-other"
development="dev=dev-clean,dev-other dev_clean=dev-clean dev_other=dev-other"
test_sets="dev_clean dev_other test_clean test_other" valid_set=dev
options=(--nbpe 500 --speed_perturb_factors "0.9 1.0 1.1")
options+=(--inference_asr_model valid.cer_ctc.ave.pth)
case $subset in
    100) train_set=train_clean_100 train=train-clean-100 config=train_larm_100h ;;
    460) train_set=train_clean_460 train=train-clean-100,train-clean-360 config=train_larm_960h ;;
    960) train_set=train_960 train=train-clean-100,train-clean-360,train-other-500 config=train_larm_960h ;;
    mini)
        train_set=train_clean_5 train=train-clean-5 config=train_larm_mini
        development=dev_clean_2=dev-clean-2 test_sets="test_clean test_other" valid_set=dev_clean_2
        options=(--nbpe 100 --inference_nj 1)
        ;;
    *) die "--subset $subset is not known; allowed: 100, 460, 960, mini" ;;
esac
if [ -n "$ngram" ]; then
    ngram_file=$(local/download_ngram.sh "$ngram" "$mirror" local/ngrams.txt "$PWD/downloads/lm")
    options+=(--use_ngram true --ngram_file "$ngram_file")
fi
tag=
case $case in
    keep) ;;
    lower) tag=_lower ;;
    *) die "--case $case is not known; allowed: keep, lower" ;;
esac
librispeech=$(callers_folder "$librispeech")
# What asr.sh says where only data of another subset is there.
TRAIN_SET_OPTIONS=
for name in train_clean_100=100 train_clean_460=460 train_960=960 train_clean_5=mini; do
    TRAIN_SET_OPTIONS+="${name%=*}=--subset ${name#*=},${name%=*}_lower=--subset ${name#*=} --case lower,"
done
sets="$train_set=$train $development $evaluation"
export TRAIN_SET_OPTIONS
export LIBRISPEECH=$librispeech LIBRISPEECH_MIRROR=$mirror LIBRISPEECH_SUBSET=$subset LIBRISPEECH_CASE=$case
export LIBRISPEECH_SETS=${sets//=/$tag=}

exec ../asr.sh \
    --train_set "$train_set$tag" \
    --valid_set "$valid_set$tag" \
    --test_sets "${test_sets// /$tag }$tag" \
    --token_type bpe \
    --max_wav_duration 30 \
    --feats_normalize utterance_mvn \
    --inference_config conf/decode_ctc_greedy.yaml \
    --asr_config "conf/librispeech/$config.yaml" \
    "${options[@]}" \
    ${rest[@]+"${rest[@]}"}
