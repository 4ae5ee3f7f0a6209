#!/usr/bin/env bash
# The pipeline that all recipes share: from a corpus to a table of word error rates, with ESPnet's stages and options.
#
# The recipe's run.sh calls it in the recipe's folder. Stages have numbers and names:
#   1 data  2 speed  3 format  4 filter  5 tokens  6 lm_stats  7 lm_train  8 lm_perplexity  9 ngram
#   10 stats  11 train  12 decode  13 score  14 pack  15 upload
# Stages 6-8 train an LM from --lm_train_text. Where it decodes (--token_type hugging_face, and no other LM is named), 6
# runs before 5, because it makes the tokens. With --use_lm true it is one of ESPnet's instead, which scores hypotheses. With
# --use_ngram true, 9 trains an n-gram, over an LM's tokens or for CTC over words. Every stage can be repeated. Relative
# paths of --lm_*_text, --ngram_text, --ngram_file and --hugging_face_model_name_or_path count from the folder in which
# run.sh is called, or else from the recipe's. The 42
# minutes of egs/an4 take about an hour on two cores.
#
#   ../asr.sh --train_set train --valid_set dev --test_sets "test" --asr_config conf/an4/train_larm.yaml
#   ../asr.sh ... --stage train --stop_stage score --asr_args "--max_epoch 5"
# shellcheck disable=SC2034,SC2154 # options and names are shared with utils/asr_parts.sh and utils/names.sh
# shellcheck disable=SC2329 # main calls the stages by name
set -euo pipefail

egs_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$egs_dir")
# A recipe that `espnet-larm init-recipe` made has everything in one folder, and a path.sh that says where the package is.
[ -d "$repository/espnet_larm" ] || repository=$egs_dir
# Threads that wait long sleep instead of spinning: beside another busy process, spinning ones would hold the cores that
# others need (tools/bench/RESULTS.md). This is for ESPnet's programs; espnet_larm/process.py does it for ours. A policy
# that the user has set is kept.
[ -n "${OMP_WAIT_POLICY+set}" ] || export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT="${GOMP_SPINCOUNT-10000}"
for helper in log options jobs training files names asr_parts scoring_lm summary; do
    # shellcheck source=/dev/null
    . "$egs_dir/utils/$helper.sh"
done

# Options
# --- General
stage=1  # first stage, number or name
stop_stage=15  # last stage, or a higher number; 14 (pack) and 15 (upload) run only when they are asked for
skip_stages=  # numbers or names, separated by spaces
skip_data_prep=false  # skip stages 1-5
skip_train=false  # skip stages 6-11
skip_eval=false  # skip stages 12-13
skip_packing=true  # skip stage 14, unless --stage names it
skip_upload_hf=true  # skip stage 15, unless --stage names it; it needs --hf_repo
eval_valid_set=false  # decode and score the development set, too (as org/<set>)
ngpu=1  # number of GPUs per node for training; 0 trains on the CPU
num_nodes=1  # number of machines for training; more than 1 needs cmd_backend=slurm in cmd.sh
nj=  # number of parallel jobs of stages 2, 3 and 10; the number of cores by default
inference_nj=  # number of parallel jobs of stage 12; the number of cores by default; 1 for undisturbed times
gpu_inference=false  # decode on GPUs, one per job
dumpdir=dump  # folder for formatted audio
expdir=exp  # folder for experiments
python=  # command that runs Python, of one or more words; `python3 -m espnet_larm` in the repository's .venv by default
# --- Data
train_set=  # name of the training set, required
valid_set=  # name of the development set, required
test_sets=  # names of the test sets, separated by spaces, required for stages 12-13
local_data_opts=  # options of local/data.sh
post_process_local_data_opts=  # options of a second call of local/data.sh, at the end of stage 4
lang=noinfo  # language, part of the folders' names
fs=16000  # sampling rate in Hz; 16k is 16000
feats_type=raw  # raw only: features are computed in training
audio_format=flac.ark  # flac.ark only: what audio that does not fit is converted to
speed_perturb_factors=  # speeds of the training set's copies, such as "0.9 1.0 1.1"; empty for none
min_wav_duration=0.1  # seconds; shorter training utterances are dropped
max_wav_duration=20  # seconds; longer training utterances are dropped
allow_problems=  # kinds of problems that only warn, such as "silence truncated-audio"; what cannot be read is left out
# --- Tokens
token_type=char  # char, bpe, or hugging_face: the tokens of an LM
hugging_face_model_name_or_path=  # folder or hub id of that LM, for tokens and decoder_conf; default: that of stages 6-8
hugging_face_revision=  # revision of that LM on the hub: a branch, tag or commit; the newest by default
ctc_token_type=  # char or bpe: tokens of the CTC head's own, with token_type hugging_face; the LM's by default
nbpe=30  # number of pieces of the BPE model
bpemode=unigram  # kind of BPE model: unigram or bpe
bpe_char_cover=1.0  # fraction of the characters that get a BPE piece
bpe_train_text=  # files to train the BPE model from, with ids first; by default the training set's transcripts
bpe_nlsyms=  # symbols that get a BPE piece each, separated by commas, or a file of them, one a line
bpe_input_sentence_size=100000000  # largest number of sentences that the BPE model is trained from
nlsyms_txt=none  # file of symbols such as <noise> that stay whole and count neither as words nor as characters, one a line
cleaner=none  # ESPnet's text cleaner
g2p=none  # ESPnet's grapheme-to-phoneme converter
# --- Language model
lm_train_text=  # files to train an LM from, a sentence a line, plain or .gz; in those called `text`, ids come first
lm_dev_text=  # files to measure it on while it is trained; by default the last lines of lm_train_text
lm_test_text=  # files for the perplexity of stage 8; by default the text that stage 7 measured on
lm_config=  # YAML with options of train-lm, found like asr_config; with use_lm, of ESPnet's lm_train (a Transformer by default)
lm_args=  # options of train-lm, such as "--max_steps 100"; with use_lm, of lm_train, such as "--max_epoch 10"
lm_tag=  # name of the LM; by default from the config and lm_args
lm_exp=  # folder of the LM; <expdir>/lm_<lm_tag> by default
use_lm=false  # train ESPnet's LM over the recipe's tokens (stages 6-8), and score hypotheses with it (stage 12)
lm_stats_dir=  # use_lm: folder of its texts and their lengths; <expdir>/lm_stats_<lm_tag> by default
lm_fold_length=150  # use_lm: in tokens; batches of longer sentences are smaller
inference_lm=valid.loss.ave.pth  # use_lm: file of weights in the LM's folder
# --- N-gram
use_ngram=false  # train an n-gram (stage 9), over an LM's tokens or for CTC over words, and score with it (stage 12)
ngram_num=3  # number of tokens of the longest n-grams, 2 to 6
ngram_text=  # files to train it from, read like lm_train_text; by default the training set's transcripts
ngram_exp=  # folder of the n-gram; <expdir>/ngram_<tokens> or <expdir>/ngram_word by default
ngram_file=  # one to score with instead of training it: ARPA (.gz too), or kenlm's binary
# --- Training
asr_config=  # YAML, found from the recipe's folder or from the repository's root
first_asr_config=  # YAMLs of earlier trainings; each begins with the weights of the last; FILE:PARTS hands on all but PARTS
first_asr_model=latest.pth  # file of their weights that the next begins with
frontend_model=  # folder or hub id of the encoder of frontend: pretrained; by default the config's frontend_conf: model
store_frames=false  # keep that encoder's frames on the disk (stage 10) and train from them; it must be frozen
asr_args=  # options of asr_train, for all trainings if there are several, such as "--max_epoch 10"
asr_tag=  # name of the experiment; by default from the config (with its folder if it is another recipe's) and asr_args
asr_exp=  # folder of the experiment; <expdir>/asr_<asr_tag> by default
asr_stats_dir=  # folder of the statistics; <expdir>/asr_stats_... by default
feats_normalize=global_mvn  # global_mvn: normalise by statistics of stage 10; utterance_mvn: as the YAML says
pretrained_model=  # weights to begin with, as --init_param takes them: file:source key:target key:excluded keys
ignore_init_mismatch=false  # leave out initial weights of other shapes
asr_speech_fold_length=800  # in frames of 100 samples; batches of longer utterances are smaller
asr_text_fold_length=150  # in tokens; batches of longer transcripts are smaller
# --- Decoding
inference_config=  # YAML, found like asr_config
inference_args=  # options of asr_inference, such as "--num_loops 4"
batch_size=1  # number of utterances in a batch of decoding; 1 bounds batches by --batch_seconds alone
inference_tag=  # name of the folder of results; by default from config, args and model
score_opts=  # options of espnet-larm score
local_score_opts=  # options of local/score.sh, which stage 13 runs if it exists, with the experiment's folder last
results_note=  # sentence at the top of RESULTS.md
inference_asr_model=valid.loss.ave.pth  # file of weights in the experiment's folder
# --- Publication
pack_opts=  # options of espnet-larm pack, such as "--license cc-by-4.0 --language en --datasets librispeech_asr"
hf_repo=  # repository on the Hugging Face hub, user/name, that stage 15 puts the pack into; public if it is new
# --- Later
download_model=  # not supported yet
# End of options

stage_names=(none data speed format filter tokens lm_stats lm_train lm_perplexity ngram stats train decode score pack upload)

main() {
    run_args="$(printf '%q ' "$egs_dir/asr.sh" "$@")"
    parse_options "$egs_dir/asr.sh" "$@"
    resolve_paths
    check_options
    set_up
    check_gpus
    set_names
    local number reason
    for number in "${stage_order[@]}"; do
        will_run "$number" || continue
        reason=$(why_not "$number")
        if [ -n "$reason" ]; then
            log "stage $number (${stage_names[number]}) is skipped: $reason"
            continue
        fi
        log "stage $number (${stage_names[number]}) starts"
        local start=$SECONDS running_stage="stage $number (${stage_names[number]})" running_stage_name=${stage_names[number]}
        "stage_${stage_names[number]}"
        log "stage $number (${stage_names[number]}) took $((SECONDS - start)) s"
    done
    say_what_is_there "$stop_stage"
}

stage_data() {
    log "corpus -> data/{$train_set_plain,$valid_set,${test_sets// /,}}"
    [ -x local/data.sh ] || die "local/data.sh is missing or not executable; a recipe prepares its corpus there"
    # shellcheck disable=SC2086 # local_data_opts holds words
    run_group local/data.sh $local_data_opts || fail "local/data.sh; what it said stands above"
}

stage_speed() {
    if [ -z "$speed_perturb_factors" ]; then
        log "skipped: --speed_perturb_factors is empty"
        return
    fi
    need_file "data/$train_set_plain/wav.scp" data
    # shellcheck disable=SC2086 # sets are words
    validate_folders "$train_set_plain" "$valid_set" $test_sets
    log "data/$train_set_plain -> data/$train_set at speeds $speed_perturb_factors"
    # shellcheck disable=SC2086 # factors and kinds are words
    run_live "data/$train_set/perturb_speed.log" "${py[@]}" perturb-speed --fs "$fs" --nj "$nj" \
        --in_dir "data/$train_set_plain" --output_dir "data/$train_set" --factors $speed_perturb_factors \
        --allow $allow_problems
}

stage_format() {
    local set
    validate_folders "${all_sets[@]}"
    for set in "${all_sets[@]}"; do
        need_file "data/$set/wav.scp" data
        log "data/$set -> $(formatted_dir "$set")"
        # shellcheck disable=SC2086 # allow_problems holds words
        run_live "$(formatted_dir "$set")/format_audio.log" "${py[@]}" format-audio --fs "$fs" \
            --nj "$nj" --in_dir "data/$set" --output_dir "$(formatted_dir "$set")" --allow $allow_problems
    done
}

stage_filter() {
    local set
    for set in "$train_set" "$valid_set"; do
        need_file "$data_feats/org/$set/wav.scp" format
        log "$data_feats/org/$set -> $data_feats/$set, $min_wav_duration to $max_wav_duration s"
        run_live "$data_feats/$set/filter_lengths.log" "${py[@]}" filter-lengths --fs "$fs" \
            --in_dir "$data_feats/org/$set" --output_dir "$data_feats/$set" \
            --min_wav_duration "$min_wav_duration" --max_wav_duration "$max_wav_duration"
    done
    [ -n "$post_process_local_data_opts" ] || return 0
    # shellcheck disable=SC2086 # words
    run_group local/data.sh $post_process_local_data_opts --asr_data_dir "$data_feats/$train_set" ||
        fail "local/data.sh $post_process_local_data_opts; what it said stands above"
}

stage_tokens() {
    need_file "$data_feats/$train_set/text" filter
    [ -z "$lm_exp" ] || [ "$llm_of_tokens" != "$lm_exp/tokenizer" ] || need_file "$llm_of_tokens/config.json" lm_stats
    make_tokens "$token_type" "$token_dir"
    [ -z "$ctc_token_type" ] || make_tokens "$ctc_token_type" "$ctc_token_dir"
}

make_tokens() { # TYPE DIR
    local options=() texts=$data_feats/$train_set/text
    [ "$1" != bpe ] || texts=${bpe_train_text:-$texts}
    log "$texts -> $2"
    [ "$nlsyms_txt" = none ] || [ "$1" = hugging_face ] || options+=(--nlsyms "$nlsyms_txt")
    [ -z "$bpe_nlsyms" ] || options+=(--bpe_nlsyms "$bpe_nlsyms")
    if [ "$1" = hugging_face ]; then
        need_file "$data_feats/$valid_set/text" filter
        options+=(--llm "$llm_of_tokens" --check_text "$data_feats/$valid_set/text")
        [ -z "$hugging_face_revision" ] || options+=(--revision "$hugging_face_revision")
    fi
    # shellcheck disable=SC2086 # files are words
    run_live "$2/make_tokens.log" "${py[@]}" make-tokens --token_type "$1" \
        --text $texts --output_dir "$2" --nbpe "$nbpe" --bpemode "$bpemode" --bpe_char_cover "$bpe_char_cover" \
        --bpe_input_sentence_size "$bpe_input_sentence_size" ${options[@]+"${options[@]}"}
}

stage_lm_stats() {
    local options=()
    ! "$use_lm" || { scoring_lm_stats; return; }
    log "$lm_train_text -> $lm_exp/tokenizer"
    lm_options
    run_live "$lm_exp/lm_stats.log" "${py[@]}" train-lm "${options[@]}" --tokenizer_only true
}

stage_lm_train() {
    local options=()
    ! "$use_lm" || { scoring_lm_train; return; }
    need_file "$lm_exp/tokenizer/tokenizer.json" lm_stats
    log "$lm_train_text -> $lm_exp (log: $lm_exp/train.log)"
    lm_options
    run_training "$lm_ngpu" 1 "$lm_exp/train.log" env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-$train_threads}" \
        "${py[@]}" train-lm "${options[@]}"
}

stage_lm_perplexity() {
    local options=(--llm "$lm_exp" --ngpu "$lm_ngpu")
    ! "$use_lm" || { scoring_lm_perplexity; return; }
    need_file "$lm_exp/config.json" lm_train
    log "${lm_test_text:-$lm_exp/valid.txt} -> $lm_exp/perplexity.log"
    # shellcheck disable=SC2206 # files are words
    [ -z "$lm_test_text" ] || options+=(--text $lm_test_text)
    run_live "$lm_exp/perplexity.log" env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-$train_threads}" \
        "${py[@]}" lm-perplexity "${options[@]}"
}

stage_ngram() {
    local options=(--token_type word)
    need_file "$data_feats/$valid_set/text" filter
    log "$ngram_text -> $ngram_file"
    if [ "$token_type" = hugging_face ]; then
        need_file "$token_list" tokens
        options=(--token_type hugging_face --token_list "$token_list" --bpemodel "$llm_of_tokens")
        [ -z "$hugging_face_revision" ] || options+=(--revision "$hugging_face_revision")
    fi
    # shellcheck disable=SC2086 # files are words
    run_live "$ngram_exp/ngram.log" "${py[@]}" train-ngram --text $ngram_text \
        --dev_text "$data_feats/$valid_set/text" "${options[@]}" \
        --cleaner "$cleaner" --ngram_num "$ngram_num" --outpath "$ngram_file"
}

stage_stats() {
    local logdir="$asr_stats_dir/logdir" num_jobs num_valid options=()
    need_file "$data_feats/$train_set/wav.scp" filter
    need_file "$token_list" tokens
    validate_spelling
    log "$data_feats/{$train_set,$valid_set} -> $asr_stats_dir"
    # Hours, or a refusal: before the statistics that are there are removed.
    ! "$store_frames" || store_frames_of "$train_set" "$valid_set"
    take_folder "$asr_stats_dir"
    rm -f "$logdir"/{train,valid}.*.scp "$logdir"/stats.*/{train,valid}/speech_shape
    rm -rf "$asr_stats_dir"/{train,valid}
    num_valid=$(wc -l < "$data_feats/$valid_set/wav.scp")
    num_jobs=$(split_keys "$data_feats/$train_set/wav.scp" $((nj < num_valid ? nj : num_valid)) "$logdir/train")
    split_keys "$data_feats/$valid_set/wav.scp" "$num_jobs" "$logdir/valid" > /dev/null
    model_options
    # shellcheck disable=SC2086 # words
    counts_done=counted_stats counts_of=$(cat "$data_feats"/{"$train_set","$valid_set"}/wav.scp | wc -l) \
        run_jobs stats "$num_jobs" 0 "$logdir/stats.@JOB@.log" env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}" \
        "${py[@]}" -m espnet2.bin.asr_train --collect_stats true "${options[@]}" --ngpu 0 \
        --train_shape_file "$logdir/train.@JOB@.scp" --valid_shape_file "$logdir/valid.@JOB@.scp" \
        --output_dir "$logdir/stats.@JOB@" $asr_args
    aggregate_stats "$num_jobs" "$asr_stats_dir"
}

stage_train() {
    local part index first_exp
    for part in train valid; do need_file "$asr_stats_dir/$part/speech_shape" stats; done
    for index in "${!first_asr_configs[@]}"; do
        first_exp=$(experiment_of "${first_asr_configs[index]}")
        train_model "${first_asr_configs[index]}" "$first_exp" "$pretrained_model" earlier
        pretrained_model=$first_exp/$first_asr_model
        need_file "$pretrained_model" train
        pretrained_model+=${first_asr_left_out[index]:+::${first_asr_left_out[index]}}
    done
    train_model "$asr_config" "$asr_exp" "$pretrained_model"
}

train_model() { # CONFIG EXPERIMENT INITIAL_WEIGHTS [earlier]
    local asr_config=$1 asr_exp=$2 pretrained_model=$3 is_earlier=${4:-} options=() script=$2/run.sh status=0
    refuse_other_set "$asr_exp"
    log "$data_feats/{$train_set,$valid_set} -> $asr_exp (log: $asr_exp/train.log)"
    mkdir -p "$asr_exp"
    # Where a training can be resumed, these options may be refused: until it has saved, run.sh keeps the others.
    [ ! -f "$script" ] || [ -z "$(find "$asr_exp" -maxdepth 2 -name 'checkpoint*.pth')" ] ||
        script=$asr_exp/.run.sh.next
    write_resume_script "$script"
    model_options
    [ "$feats_normalize" != global_mvn ] ||
        options+=(--normalize global_mvn --normalize_conf "stats_file=$asr_stats_dir/train/feats_stats.npz")
    [ -z "$pretrained_model" ] || options+=(--init_param "$pretrained_model")
    [ "$num_nodes" -eq 1 ] || options+=(--dist_launcher slurm --dist_init_method "file://$PWD/$asr_exp/.dist_init_$$")
    # ESPnet takes nccl, which needs GPUs.
    [ "$num_nodes" -eq 1 ] || [ "$ngpu" -gt 0 ] || options+=(--dist_backend gloo)
    # shellcheck disable=SC2086 # words
    run_training "$ngpu" "$num_nodes" "$asr_exp/train.log" env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-$train_threads}" \
        "${py[@]}" -m espnet2.bin.asr_train "${options[@]}" --ngpu "$ngpu" --multiprocessing_distributed true \
        --train_shape_file "$asr_stats_dir/train/speech_shape" \
        --train_shape_file "$asr_stats_dir/train/text_shape.$token_type" \
        --valid_shape_file "$asr_stats_dir/valid/speech_shape" \
        --valid_shape_file "$asr_stats_dir/valid/text_shape.$token_type" \
        --fold_length "$((asr_speech_fold_length * 100))" --fold_length "$asr_text_fold_length" \
        --resume true --ignore_init_mismatch "$ignore_init_mismatch" --output_dir "$asr_exp" $asr_args || status=$?
    if [ "$script" != "$asr_exp/run.sh" ]; then
        # An earlier training may be another recipe's own, whose command its run.sh keeps.
        if [ -n "$is_earlier" ]; then rm "$script"; else mv "$script" "$asr_exp/run.sh"; fi
    fi
    return "$status"
}

stage_decode() {
    local set dir num_jobs options=() num_gpus=0 status=0
    need_file "$asr_exp/$inference_asr_model" train
    [ -z "$inference_config" ] || options+=(--config "$inference_config")
    # They may have moved since the training.
    [ "$token_type" != hugging_face ] || options+=(--llm "$hugging_face_model_name_or_path")
    [ -z "$frontend_model" ] || options+=(--encoder "$frontend_model")
    if "$use_ngram"; then
        "$has_ngram" || need_file "$ngram_file" ngram
        options+=(--ngram_file "$ngram_file")
    fi
    if "$use_lm"; then
        need_file "$lm_exp/$inference_lm" lm_train
        options+=(--lm_train_config "$lm_exp/config.yaml" --lm_file "$lm_exp/$inference_lm")
    fi
    # Words and LMs score a prefix beam, and configurations for CTC are greedy; --inference_args has the last word.
    if "$use_lm" || { "$use_ngram" && [ "$token_type" != hugging_face ]; }; then
        [ -n "$inference_config" ] && grep -Eq '^beam_size: *([2-9]|1[0-9])' "$inference_config" || options+=(--beam_size 10)
    fi
    ! "$gpu_inference" || num_gpus=1
    for set in $eval_sets; do
        need_file "$data_feats/$set/wav.scp" format
        dir=$asr_exp/$inference_tag/$set
        log "$data_feats/$set -> $dir"
        take_folder "$dir"
        # What an earlier decoding has left would be scored if this one is killed. What a killed one has finished stays.
        rm -rf "$dir"/{text,token,token_int,score,ctm,stats.json} "$dir"/{*best_recog,loop*,auto,layer*,score_*}
        [ ! -d "$dir/logdir" ] || find "$dir/logdir" -type f ! -name finished.jsonl -delete
        num_jobs=$(split_keys "$data_feats/$set/wav.scp" "$inference_nj" "$dir/logdir/keys")
        # shellcheck disable=SC2086 # words
        counts_done=counted_decoding counts_of=$(wc -l < "$data_feats/$set/wav.scp") \
            saves_results=yes run_jobs "decode ${set//\//-}" "$num_jobs" "$num_gpus" "$dir/logdir/asr_inference.@JOB@.log" \
            env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((num_jobs > 1 ? 1 : train_threads))}" \
            "${py[@]}" -m espnet2.bin.asr_inference ${options[@]+"${options[@]}"} --ngpu "$num_gpus" \
            --data_path_and_name_and_type "$data_feats/$set/wav.scp,speech,$(data_type "$data_feats/$set")" \
            --key_file "$dir/logdir/keys.@JOB@.scp" --asr_train_config "$asr_exp/config.yaml" \
            --asr_model_file "$asr_exp/$inference_asr_model" --output_dir "$dir/logdir/output.@JOB@" \
            --batch_size "$batch_size" $inference_args || status=1
        # Unreadable audio fails a job that has written all its other hypotheses: those are kept.
        run_live "$dir/join_outputs.log" "${py[@]}" join-outputs --output_dir "$dir" \
            --input_dirs "$dir"/logdir/output.*
    done
    [ "$status" -eq 0 ] || fail "a decoding job failed (above); what the jobs wrote is in $asr_exp/$inference_tag"
}

stage_score() {
    local set dir options=()
    # The LM may have moved since the training.
    [ "$token_type" != hugging_face ] || options+=(--bpemodel "$hugging_face_model_name_or_path")
    [ "$nlsyms_txt" = none ] || options+=(--nlsyms "$nlsyms_txt")
    for set in $eval_sets; do
        dir=$asr_exp/$inference_tag/$set
        need_file "$dir/text" decode
        log "$dir -> $dir/score_{wer,cer,ter}"
        # shellcheck disable=SC2086 # words
        run_live "$dir/score.log" "${py[@]}" score --ref_dir "$data_feats/$set" --hyp_dir "$dir" \
            --asr_train_config "$asr_exp/config.yaml" ${options[@]+"${options[@]}"} $score_opts
    done
    if [ -f local/score.sh ]; then
        # shellcheck disable=SC2086 # words
        run_group local/score.sh $local_score_opts "$asr_exp" || fail "local/score.sh; what it said stands above"
    fi
    log "$asr_exp/*/* -> $asr_exp/RESULTS.md"
    run_live "$asr_exp/results.log" "${py[@]}" results --exp_dir "$asr_exp" --note "$results_note"
}

stage_pack() {
    local options=()
    need_file "$asr_exp/$inference_asr_model" train
    log "$asr_exp -> $packed"
    [ "$feats_normalize" != global_mvn ] || options+=(--option "$asr_stats_dir/train/feats_stats.npz")
    [ "$token_type" != bpe ] || options+=(--option "$token_dir/bpe.model")
    [ "$token_type" != hugging_face ] || options+=(--llm "$hugging_face_model_name_or_path")
    [ -z "$frontend_model" ] || options+=(--encoder "$frontend_model")
    [ ! -f "$asr_exp/RESULTS.md" ] || options+=(--option "$asr_exp/RESULTS.md")
    # shellcheck disable=SC2086 # words
    run_live "$asr_exp/pack.log" "${py[@]}" -m espnet2.bin.pack asr --asr_train_config "$asr_exp/config.yaml" \
        --asr_model_file "$asr_exp/$inference_asr_model" ${options[@]+"${options[@]}"} --outpath "$packed" $pack_opts
}

stage_upload() {
    local options=()
    need_file "$packed" pack
    # The models that the pack names may have moved since the training.
    [ "$token_type" != hugging_face ] || options+=(--llm "$hugging_face_model_name_or_path")
    [ -z "$frontend_model" ] || options+=(--encoder "$frontend_model")
    log "$packed -> $hf_repo on the Hugging Face hub"
    run_live "$asr_exp/upload.log" "${py[@]}" upload --pack "$packed" --hf_repo "$hf_repo" \
        ${options[@]+"${options[@]}"}
}

# On one line: bash reads a script as it goes, and somebody may edit this one during a long run.
main "$@"; exit
