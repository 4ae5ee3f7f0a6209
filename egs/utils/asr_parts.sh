# shellcheck shell=bash disable=SC2034,SC2154 # the variables are asr.sh's
# What asr.sh's stages have in common. Sourced by asr.sh only.

stage_number() { # OPTION VALUE: prints the number of a stage, given by number or name
    local number
    for number in "${!stage_names[@]}"; do
        [ "$number" -gt 0 ] || continue
        if [ "${stage_names[number]}" = "$2" ] || [ "$number" = "$2" ]; then
            echo "$number"
            return
        fi
    done
    # ESPnet's default of stop_stage is 10000.
    if [ "$1" = stop_stage ] && [[ $2 =~ ^[0-9]+$ ]] && [ "$2" -gt "$((${#stage_names[@]} - 1))" ]; then
        echo "$((${#stage_names[@]} - 1))"
        return
    fi
    [[ ! $2 =~ ^[0-9]+$ ]] || die "--$1 $2 is no stage; allowed: 1 to 15, or a name"
    die "--$1 $2 is no stage; nearest: $(nearest_words "$2" "${stage_names[@]:1}")"
}

is_skipped() { # NUMBER
    [[ " $skip_numbers " != *" $1 "* ]] || return 0
    if [ "$1" -le 5 ]; then
        "$skip_data_prep"
    elif [ "$1" -le 11 ]; then
        "$skip_train"
    elif [ "$1" -le 13 ]; then
        "$skip_eval"
    elif [ "$1" -eq 14 ]; then
        "$skip_packing" && [ "$stage" -ne 14 ]
    else
        "$skip_upload_hf" && [ "$stage" -ne 15 ]
    fi
}

resolve_paths() { # relative paths count from the caller's folder, or else from the recipe's
    local name word paths
    # Absolute, so that the model finds it from any working folder.
    hugging_face_model_name_or_path=$(callers_folder "$hugging_face_model_name_or_path")
    frontend_model=$(callers_folder "$frontend_model")
    for name in lm_train_text lm_dev_text lm_test_text ngram_text ngram_file bpe_train_text bpe_nlsyms; do
        paths=()
        for word in ${!name}; do paths+=("$(callers_path "$word")"); done
        printf -v "$name" %s "${paths[*]:-}"
    done
}

check_options() {
    local name
    # shellcheck source=/dev/null
    [ ! -f ./cmd.sh ] || . ./cmd.sh
    [[ $cmd_backend =~ ^(local|slurm)$ ]] ||
        die "cmd_backend=$cmd_backend in cmd.sh is not known; allowed: local, slurm"
    stage=$(stage_number stage "$stage")
    stop_stage=$(stage_number stop_stage "$stop_stage")
    [ "$stage" -le "$stop_stage" ] || die "--stage $stage comes after --stop_stage $stop_stage; nothing would be done"
    skip_numbers=
    for name in $skip_stages; do skip_numbers+=" $(stage_number skip_stages "$name")"; done
    for name in train_set valid_set; do
        [ -n "${!name}" ] || die "--$name is empty; name the set (its folder under data/)"
    done
    [ "$stop_stage" -lt 12 ] || "$skip_eval" || "$eval_valid_set" || [ -n "$test_sets" ] ||
        die "--test_sets is empty; stages 12-13 need it, or --eval_valid_set true"
    [ "$feats_type" = raw ] || die "--feats_type $feats_type is not supported; allowed: raw"
    [ "$audio_format" = flac.ark ] || die "--audio_format $audio_format is not supported; allowed: flac.ark"
    [[ $token_type =~ ^(char|bpe|hugging_face)$ ]] ||
        die "--token_type $token_type is not known; allowed: char, bpe, hugging_face"
    # A hub id begins with a letter or digit: preparing data for an hour must not end in a lookup of a path.
    [[ $hugging_face_model_name_or_path != [./]* ]] || [ -d "$hugging_face_model_name_or_path" ] ||
        die "--hugging_face_model_name_or_path $hugging_face_model_name_or_path: no such folder; name one, or a hub id"
    [ "$token_type" != hugging_face ] || [ -n "$hugging_face_model_name_or_path$lm_train_text" ] ||
        die "--token_type hugging_face needs --hugging_face_model_name_or_path, a folder or hub id, or" \
            "--lm_train_text to train an LM from"
    for name in lm_dev_text lm_test_text lm_config lm_args; do
        [ -z "${!name}" ] || [ -n "$lm_train_text" ] || "$use_lm" ||
            die "--$name needs --lm_train_text, the text to train an LM from, or --use_lm true"
    done
    [[ $ctc_token_type =~ ^(char|bpe)?$ ]] || die "--ctc_token_type $ctc_token_type is not known; allowed: char, bpe"
    [ -z "$ctc_token_type" ] || [ "$token_type" = hugging_face ] ||
        die "--ctc_token_type $ctc_token_type is for --token_type hugging_face; leave it out"
    if [ -n "$hugging_face_revision" ]; then
        [ "$token_type" = hugging_face ] && [ -n "$hugging_face_model_name_or_path" ] &&
            [ ! -d "$hugging_face_model_name_or_path" ] ||
            die "--hugging_face_revision $hugging_face_revision is for --token_type hugging_face and an LM of the" \
                "hub; --hugging_face_model_name_or_path is '$hugging_face_model_name_or_path', so leave it out"
    fi
    [[ $feats_normalize =~ ^(global_mvn|utterance_mvn)$ ]] ||
        die "--feats_normalize $feats_normalize is not known; allowed: global_mvn, utterance_mvn"
    ! "$use_lm" || [ "$token_type" != hugging_face ] ||
        die "--use_lm true is for --token_type char and bpe; with hugging_face an LM decodes, and --use_ngram true scores"
    [[ $ngram_num =~ ^[2-6]$ ]] || die "--ngram_num $ngram_num is not supported; allowed: 2 to 6"
    [ -z "$ngram_text" ] || "$use_ngram" || die "--ngram_text needs --use_ngram true"
    [ -z "$ngram_file" ] || "$use_ngram" || die "--ngram_file needs --use_ngram true"
    [ -z "$ngram_file" ] || [ -z "$ngram_text" ] ||
        die "--ngram_file is given, and --ngram_text to train one; leave one out"
    [ -z "$download_model" ] || die "--download_model is not supported yet; leave it out"
    [ -z "$hf_repo" ] || [[ $hf_repo =~ ^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$ ]] ||
        die "--hf_repo $hf_repo is no repository on the Hugging Face hub; allowed: user/name"
    ! will_run 15 || [ -n "$hf_repo" ] || die "stage 15 needs --hf_repo user/name, the repository to upload to"
    # Numbers are checked below.
    lm_ngpu=1
    [ "$ngpu" != 0 ] || lm_ngpu=0
    ! "$use_lm" || lm_ngpu=$ngpu
    train_threads=$(num_cores)
    nj=${nj:-$train_threads} inference_nj=${inference_nj:-$train_threads}
    [[ ! $fs =~ ^[0-9]+k$ ]] || fs=${fs%k}000
    for name in nj inference_nj ngpu num_nodes batch_size fs asr_speech_fold_length asr_text_fold_length; do
        [[ ${!name} =~ ^[0-9]+$ ]] || die "--$name ${!name} must be a whole number"
    done
    [ "$nj" -ge 1 ] && [ "$inference_nj" -ge 1 ] && [ "$num_nodes" -ge 1 ] ||
        die "--nj, --inference_nj and --num_nodes must be at least 1"
    ! will_run 11 || [ "$num_nodes" -eq 1 ] || [ "$cmd_backend" = slurm ] ||
        die "--num_nodes $num_nodes needs a scheduler: set cmd_backend=slurm in cmd.sh"
}

why_not() { # NUMBER: prints why a stage has nothing to do
    case ${stage_names[$1]} in
        lm_*) [ -n "$lm_train_text" ] || echo "--lm_train_text names no text to train an LM from, and --use_lm is false" ;;
        ngram)
            "$use_ngram" || echo "--use_ngram is false"
            ! "$use_ngram" || ! "$has_ngram" || echo "--ngram_file names one"
            ;;
    esac
}

check_gpus() { # before hours of preparation are spent; a scheduler has them on other machines
    [ "$cmd_backend" = local ] || return 0
    will_run 11 && need_gpus ngpu "$ngpu" "--ngpu 0 trains on the CPU"
    [ -z "$lm_train_text" ] && ! "$use_lm" || ! will_run 7 || need_gpus ngpu "$lm_ngpu" "--ngpu 0 trains on the CPU"
    will_run 12 && "$gpu_inference" && need_gpus gpu_inference 1 "leave it out to decode on the CPU"
    return 0
}

will_run() { # NUMBER
    [ "$stage" -le "$1" ] && [ "$1" -le "$stop_stage" ] && ! is_skipped "$1"
}

need_gpus() { # OPTION NUMBER ADVICE
    local found
    found=$(visible_gpus | wc -l) || true
    [ "$found" -ge "$2" ] || die "--$1 wants $2 GPU(s), $found can be seen here (nvidia-smi, CUDA_VISIBLE_DEVICES); $3"
}

set_up() { # finds Python and reads the recipe's own path.sh
    # shellcheck source=/dev/null
    [ ! -f ./path.sh ] || [ -n "$python" ] || . ./path.sh
    if [ -z "$python" ]; then
        local venv=${ESPNET_LARM_VENV:-$repository/.venv}
        [ ! -x "$venv/bin/python3" ] || PATH=$venv/bin:$PATH
        python="python3 -m espnet_larm"
    fi
    read -ra py <<< "$python"
    # LC_ALL sorts by code point, as data/kaldi_dir.py does. Programs write to pipes, hence unbuffered.
    [ ! -d "$repository/espnet_larm" ] || export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}"
    export PATH python LC_ALL=C.UTF-8 PYTHONUNBUFFERED=1
}

formatted_dir() { # SET: stage 3 writes training and development sets to org/, for stage 4
    case $1 in
        "$train_set" | "$valid_set") echo "$data_feats/org/$1" ;;
        *) echo "$data_feats/$1" ;;
    esac
}

validate_folders() { # SET...: checks files, ids, speakers, texts and paths before audio takes hours
    local set folders=()
    for set in "$@"; do
        need_file "data/$set/wav.scp" data
        folders+=("data/$set")
    done
    log "validating ${folders[*]}"
    # Stage 4 drops empty transcripts from training and development sets.
    # shellcheck disable=SC2086 # allow_problems holds words
    run_live "$data_feats/validate_folders.log" "${py[@]}" validate-data --audio stat \
        --data_dirs "${folders[@]}" --allow empty-text $allow_problems
}

validate_spelling() { # checks that the tokens can spell the transcripts
    # Stage 5 has done so with the LM's tokenizer.
    [ "$token_type" = hugging_face ] || validate_spelling_by "$token_type" "$token_dir"
    [ -z "$ctc_token_type" ] || validate_spelling_by "$ctc_token_type" "$ctc_token_dir"
}

validate_spelling_by() { # TYPE DIR: test sets may hold what training never showed
    local options=() set folders=()
    [ "$1" != bpe ] || options+=(--bpemodel "$2/bpe.model")
    [ "$nlsyms_txt" = none ] || options+=(--nlsyms "$nlsyms_txt")
    log "validating the spelling of $data_feats/{$train_set,$valid_set${test_sets:+,${test_sets// /,}}} by $2"
    # shellcheck disable=SC2086 # allow_problems holds words
    run_live "$2/validate_spelling.log" "${py[@]}" validate-data --audio none --fs "$fs" \
        --data_dirs "$data_feats/$train_set" "$data_feats/$valid_set" --token_list "$2/tokens.txt" \
        ${options[@]+"${options[@]}"} --allow $allow_problems
    for set in $test_sets; do [ ! -d "$data_feats/$set" ] || folders+=("$data_feats/$set"); done
    [ "${#folders[@]}" -gt 0 ] || return 0
    # shellcheck disable=SC2086 # words
    run_live "$2/validate_spelling_test.log" "${py[@]}" validate-data --audio none \
        --fs "$fs" --data_dirs "${folders[@]}" --token_list "$2/tokens.txt" ${options[@]+"${options[@]}"} \
        --allow empty-text cannot-spell $allow_problems
}

model_options() { # fills `options` with what statistics and training share
    local bpemodel=none
    [ "$token_type" != bpe ] || bpemodel=$token_dir/bpe.model
    [ "$token_type" != hugging_face ] || bpemodel=$hugging_face_model_name_or_path
    options=(
        --use_preprocessor true --token_type "$token_type" --token_list "$token_list" --bpemodel "$bpemodel"
        --non_linguistic_symbols "$nlsyms_txt" --cleaner "$cleaner" --g2p "$g2p"
        --train_data_path_and_name_and_type "$(speech_of "$data_feats/$train_set")"
        --train_data_path_and_name_and_type "$data_feats/$train_set/text,text,text"
        --valid_data_path_and_name_and_type "$(speech_of "$data_feats/$valid_set")"
        --valid_data_path_and_name_and_type "$data_feats/$valid_set/text,text,text"
        --frontend_conf "fs=$fs"
    )
    [ -z "$asr_config" ] || options+=(--config "$asr_config")
    [ -z "$frontend_model" ] || options+=(--frontend_conf "model=$frontend_model")
    [ "$token_type" != hugging_face ] || options+=(--decoder_conf "llm=$hugging_face_model_name_or_path")
    # Quoted, because ESPnet reads YAML, where a commit may be a number.
    [ -z "$hugging_face_revision" ] || options+=(--decoder_conf "revision='$hugging_face_revision'")
    [ -n "$ctc_token_type" ] || return 0
    local ctc_tokens=$ctc_token_dir/tokens.txt
    options+=(
        --model_conf "ctc_token_list=$ctc_tokens" --preprocessor speech_llm
        --preprocessor_conf "ctc_token_list=$ctc_tokens" --preprocessor_conf "ctc_token_type=$ctc_token_type"
    )
    [ "$ctc_token_type" != bpe ] || options+=(--preprocessor_conf "ctc_bpemodel=$ctc_token_dir/bpe.model")
}

speech_of() { # SET_FOLDER: prints the speech that training reads of it, as ESPnet names it
    if "$store_frames"; then
        echo "$1/frames.scp,speech,frames"
    else
        echo "$1/wav.scp,speech,$(data_type "$1")"
    fi
}

check_frozen() { # before hours of preparation are spent; store-frames reads the YAML as a whole
    [ -n "$asr_config" ] || die "--store_frames true needs --asr_config, a YAML with frontend: pretrained"
    ! sed -n '/^frontend_conf:/,/^[^ #]/p' "$asr_config" | grep -Eq '^ +train: *(last_n|all|lora)\b' ||
        die "--store_frames true: frontend_conf of $asr_config trains the encoder, whose frames then change; allowed" \
            "with it: train: frozen"
}

store_frames_of() { # SET...: keeps frames of the pre-trained encoder
    local set options=(--config "$asr_config" --ngpu "$((ngpu > 0))")
    [ -z "$frontend_model" ] || options+=(--model "$frontend_model")
    for set in "$@"; do
        run_live "$data_feats/$set/store_frames.log" env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-$train_threads}" \
            "${py[@]}" store-frames --data_dir "$data_feats/$set" "${options[@]}"
    done
}

lm_options() { # fills `options` with what stages 6 and 7 share
    # shellcheck disable=SC2206 # files are words
    options=(--output_dir "$lm_exp" --ngpu "$lm_ngpu" --text $lm_train_text)
    # shellcheck disable=SC2206 # files are words
    [ -z "$lm_dev_text" ] || options+=(--valid_text $lm_dev_text)
    [ -z "$lm_config" ] || options+=(--config "$lm_config")
    # shellcheck disable=SC2206 # words
    options+=($lm_args)
}

counted_stats() { # LOG: prints the utterances whose lengths are written by all jobs of stage 10
    cat "$(dirname "$1")"/stats.*/{train,valid}/speech_shape 2> /dev/null | wc -l
}

counted_decoding() { # LOG: prints the utterances that all jobs of stage 12 have recognised, by our program or ESPnet's
    local log lines told sum=0
    for log in ${1//@JOB@/*}; do
        [ -f "$log" ] || continue
        lines=$(grep -c ' INFO: best hypo: ' "$log" || true)
        # Ours also counts those of before an interruption.
        told=$(sed -n 's/.* INFO: \([0-9]*\) of [0-9]* utterances in .*/\1/p' "$log" | tail -n 1)
        sum=$((sum + (${told:-0} > ${lines:-0} ? ${told:-0} : ${lines:-0})))
    done
    echo "$sum"
}

aggregate_stats() { # NUM_JOBS DIR: joins their statistics in DIR
    local part vocabulary_size parts=$2/.part inputs=()
    for ((part = 1; part <= $1; part++)); do inputs+=(--input_dir "$2/logdir/stats.$part"); done
    rm -rf "$parts"
    run_live "$2/aggregate.log" \
        "${py[@]}" -m espnet2.bin.aggregate_stats_dirs "${inputs[@]}" --output_dir "$parts"
    vocabulary_size=$(wc -l < "$token_list")
    for part in train valid; do
        awk -v size="$vocabulary_size" '{ print $0 "," size }' "$parts/$part/text_shape" \
            > "$parts/$part/text_shape.$token_type"
        rm -rf "${2:?}/$part"
        mv "$parts/$part" "$2/$part"
    done
    rmdir "$parts"
}

write_resume_script() { # PATH
    cat > "$1" << END
#!/usr/bin/env bash
# Resumes this experiment; further options override: ./run.sh --stage decode
set -euo pipefail
cd $(printf %q "$PWD")
export ESPNET_LARM_CALLER=$(printf %q "${ESPNET_LARM_CALLER:-$PWD}")
exec $run_args --stage train --stop_stage upload "\$@"
END
    chmod +x "$1"
}
