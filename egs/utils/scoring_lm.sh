# shellcheck shell=bash disable=SC2034,SC2154 # the variables are asr.sh's
# Stages 6 to 8 with --use_lm true: an LM of ESPnet's over the recipe's tokens, which scores hypotheses in stage 12. Sourced
# by asr.sh only.

set_scoring_lm_names() { # LANGUAGE SET_TAG
    lm_config=${lm_config:+$(find_file lm_config "$lm_config" "$repository")}
    lm_tag=${lm_tag:-$(name_of_config "${lm_config:-train_lm}" "$repository")$1_$named_tokens$(tag_of "$(what_names_a_model "$lm_args")")$2}
    lm_exp=${lm_exp:-$expdir/lm_$lm_tag}
    lm_stats_dir=${lm_stats_dir:-$expdir/lm_stats_$lm_tag}
    lm_train_text=${lm_train_text:-data/$train_set_plain/text}
    lm_dev_text=${lm_dev_text:-$data_feats/$valid_set/text}
    lm_test_text=${lm_test_text:-$([ -z "$test_sets" ] && echo "$lm_dev_text" || echo "$data_feats/${test_sets%% *}/text")}
}

write_sentences() { # OUT FILE...: writes their sentences with an id each, as ESPnet reads text; those without words are out
    local out=$1 file
    shift
    mkdir -p "$(dirname "$out")"
    for file in "$@"; do
        [ -s "$file" ] || die "$file is missing or empty; an LM reads a sentence a line, plain or .gz, with ids if it is called text"
    done
    for file in "$@"; do
        if [[ $file == *.gz ]]; then gzip -dc "$file"; else cat "$file"; fi |
            awk -v ids="$([ "${file##*/}" = text ] && echo 1 || echo 0)" \
                'NF > ids { if (ids) $1 = ""; $0 = $0; $1 = $1; print }' || exit 1
    done | awk '{ printf "lm_%010d %s\n", NR, $0 }' > "$out.part" || fail "$* could not be read"
    [ -s "$out.part" ] || fail "$* have no words"
    mv "$out.part" "$out"
}

scoring_lm_options() { # fills `options` with what stages 6 and 7 share
    local bpemodel=none
    [ "$token_type" != bpe ] || bpemodel=$token_dir/bpe.model
    options=(
        --use_preprocessor true --token_type "$token_type" --token_list "$token_list" --bpemodel "$bpemodel"
        --non_linguistic_symbols "$nlsyms_txt" --cleaner "$cleaner" --g2p "$g2p"
        --train_data_path_and_name_and_type "$lm_stats_dir/train.txt,text,text"
        --valid_data_path_and_name_and_type "$lm_stats_dir/dev.txt,text,text"
    )
    # ESPnet's own default is a recurrent one.
    if [ -n "$lm_config" ]; then options+=(--config "$lm_config"); else options+=(--lm transformer); fi
}

scoring_lm_stats() {
    local options=() num_jobs num_valid logdir=$lm_stats_dir/logdir
    need_file "$token_list" tokens
    log "$lm_train_text -> $lm_stats_dir"
    take_folder "$lm_stats_dir"
    rm -rf "$logdir" "$lm_stats_dir"/{train,valid}
    # shellcheck disable=SC2086 # files are words
    write_sentences "$lm_stats_dir/train.txt" $lm_train_text
    # shellcheck disable=SC2086
    write_sentences "$lm_stats_dir/dev.txt" $lm_dev_text
    num_valid=$(wc -l < "$lm_stats_dir/dev.txt")
    num_jobs=$(split_keys "$lm_stats_dir/train.txt" $((nj < num_valid ? nj : num_valid)) "$logdir/train")
    split_keys "$lm_stats_dir/dev.txt" "$num_jobs" "$logdir/valid" > /dev/null
    scoring_lm_options
    # shellcheck disable=SC2086 # words
    run_jobs lm_stats "$num_jobs" 0 "$logdir/stats.@JOB@.log" env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}" \
        "${py[@]}" -m espnet2.bin.lm_train --collect_stats true "${options[@]}" --ngpu 0 \
        --train_shape_file "$logdir/train.@JOB@.scp" --valid_shape_file "$logdir/valid.@JOB@.scp" \
        --output_dir "$logdir/stats.@JOB@" $lm_args
    aggregate_stats "$num_jobs" "$lm_stats_dir"
}

scoring_lm_train() {
    local options=() part
    for part in train valid; do need_file "$lm_stats_dir/$part/text_shape.$token_type" lm_stats; done
    log "$lm_stats_dir/{train,dev}.txt -> $lm_exp (log: $lm_exp/train.log)"
    mkdir -p "$lm_exp"
    scoring_lm_options
    [ "$num_nodes" -eq 1 ] || options+=(--dist_launcher slurm --dist_init_method "file://$PWD/$lm_exp/.dist_init_$$")
    # ESPnet takes nccl, which needs GPUs.
    [ "$num_nodes" -eq 1 ] || [ "$ngpu" -gt 0 ] || options+=(--dist_backend gloo)
    # shellcheck disable=SC2086 # words
    run_training "$ngpu" "$num_nodes" "$lm_exp/train.log" env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-$train_threads}" \
        "${py[@]}" -m espnet2.bin.lm_train "${options[@]}" --ngpu "$ngpu" --multiprocessing_distributed true \
        --train_shape_file "$lm_stats_dir/train/text_shape.$token_type" \
        --valid_shape_file "$lm_stats_dir/valid/text_shape.$token_type" \
        --fold_length "$lm_fold_length" --resume true --output_dir "$lm_exp" $lm_args
}

scoring_lm_perplexity() {
    local dir=$lm_exp/perplexity
    need_file "$lm_exp/$inference_lm" lm_train
    log "$lm_test_text -> $dir"
    # shellcheck disable=SC2086 # files are words
    write_sentences "$dir/test.txt" $lm_test_text
    run_live "$dir/lm_calc_perplexity.log" env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-$train_threads}" \
        "${py[@]}" -m espnet2.bin.lm_calc_perplexity --ngpu "$((ngpu > 0))" \
        --data_path_and_name_and_type "$dir/test.txt,text,text" --train_config "$lm_exp/config.yaml" \
        --model_file "$lm_exp/$inference_lm" --output_dir "$dir"
    log "perplexity of $lm_test_text: $(cat "$dir/ppl")"
}
