# shellcheck shell=bash disable=SC2034,SC2154 # the variables are asr.sh's
# Names the folders of tokens, statistics, models and results. Sourced after files.sh.

set_names() { # names folders as ESPnet does
    local suffix=
    train_set_plain=$train_set
    if [ -n "$speed_perturb_factors" ]; then
        train_set+=_sp suffix=_sp
    fi
    read -ra all_sets <<< "$train_set $valid_set $test_sets"
    # The development set as stage 3 wrote it, before stage 4 left utterances out.
    eval_sets=$test_sets
    ! "$eval_valid_set" || eval_sets="org/$valid_set $test_sets"
    data_feats=$dumpdir/$feats_type
    local language=_$lang
    [ "$lang" != noinfo ] || language=
    set_lm_names
    # Of the training set; those of recipes with one corpus are called train, which is left out.
    local set_tag=$suffix
    [ "$train_set_plain" = train ] || set_tag=_$train_set
    set_token_folders "$language" "$set_tag"
    ! "$use_lm" || set_scoring_lm_names "$language" "$set_tag"
    # Looked for only when a stage needs them: preparing data asks for no configuration.
    [ "$stop_stage" -lt 10 ] || asr_config=${asr_config:+$(find_file asr_config "$asr_config" "$repository")}
    ! "$store_frames" || ! will_run 10 || check_frozen
    local named part config stored=
    first_asr_configs=() first_asr_left_out=()
    read -ra named <<< "$first_asr_config"
    for part in "${named[@]}"; do
        config=${part%%:*}
        [ "$stop_stage" -lt 10 ] || config=$(find_file first_asr_config "$config" "$repository")
        first_asr_configs+=("$config") first_asr_left_out+=("${part#"${part%%:*}"}")
    done
    [ "$stop_stage" -lt 12 ] ||
        inference_config=${inference_config:+$(find_file inference_config "$inference_config" "$repository")}
    local begin=_$feats_type${language}_$named_tokens
    rest_of_tag=$begin$(tag_of "$(what_names_a_model "$asr_args")")$set_tag
    earlier_rest_of_tag=$begin$(tag_of "$(what_names_a_model "$asr_args" earlier)")$suffix
    # Lengths are those of what is read: samples, or frames of this encoder.
    ! "$store_frames" || stored=_$(name_of_config "$asr_config" "$repository")
    [ -n "$asr_stats_dir" ] ||
        asr_stats_dir=$(here_or_earlier "$expdir/asr_stats$begin$set_tag$stored" "$expdir/asr_stats$begin$suffix$stored" \
            logdir/stats.1.log "$data_feats/$train_set/")
    [ -n "$asr_exp$asr_tag" ] || asr_exp=$(experiment_of "${asr_config:-train}")
    asr_exp=${asr_exp:-$expdir/asr_$asr_tag}
    packed=$asr_exp/${asr_exp##*/}_${inference_asr_model%.*}.zip
    ngram_text=${ngram_text:-data/$train_set_plain/text}
    has_ngram=false
    if [ -n "$ngram_file" ]; then
        has_ngram=true
    else
        # An LM's search scores its tokens, CTC's prefix beam words.
        local tokens_of_ngram=word
        [ "$train_set_plain" = train ] || tokens_of_ngram+=_$train_set_plain
        [ "$token_type" != hugging_face ] || tokens_of_ngram=${token_dir##*/}
        ngram_exp=${ngram_exp:-$expdir/ngram_$tokens_of_ngram${language}}
        ngram_file=$ngram_exp/${ngram_num}gram.arpa
    fi
    if [ -z "$inference_tag" ]; then
        inference_tag=$(basename "${inference_config:-inference}" .yaml)$(tag_of "$inference_args")
        ! "$use_lm" || inference_tag+=_$(basename "$lm_exp")_$(printf %s "${inference_lm%.*}" | tr / _)
        if "$use_ngram"; then
            "$has_ngram" || inference_tag+=_${ngram_exp##*/}
            inference_tag+=_$(basename "${ngram_file%.gz}" .arpa)
        fi
        inference_tag+=_asr_model_$(printf %s "${inference_asr_model%.*}" | tr / _)
    fi
}

set_token_folders() { # LANGUAGE SET_TAG: sets the folders of tokens, and `named_tokens`, what they are called in names
    local lists=data/${1:+${lang}_}token_list llm=${hugging_face_model_name_or_path%/} folder
    named_tokens=$token_type
    folder=$(token_folder "$token_type")
    if [ "$token_type" = bpe ]; then
        named_tokens=bpe$nbpe
    elif [ "$token_type" = hugging_face ]; then
        named_tokens=hugging_face_${llm##*/}${hugging_face_revision:+_${hugging_face_revision//\//_}}
        folder=$named_tokens
    fi
    [ -z "$ctc_token_type" ] || named_tokens+=_ctc_$(token_folder "$ctc_token_type")
    token_dir=$(token_folder_of_set "$token_type" "$lists/$folder" "$2")
    token_list=$token_dir/tokens.txt
    ctc_token_dir=$(token_folder_of_set "$ctc_token_type" "$lists/$(token_folder "$ctc_token_type")" "$2")
}

token_folder() { # TYPE
    if [ "$1" = bpe ]; then echo "bpe_$bpemode$nbpe"; else echo "$1"; fi
}

token_folder_of_set() { # TYPE FOLDER SET_TAG: prints the folder of this training set's tokens
    local texts=$data_feats/$train_set/text
    [ "$1" != bpe ] || texts=${bpe_train_text:-$texts}
    here_or_earlier "$2$3" "$2" make_tokens.log "$texts -> "
}

experiment_of() { # CONFIG: prints the folder of its training
    local begin
    begin=$expdir/asr_$(name_of_config "$1" "$repository")
    here_or_earlier "$begin$rest_of_tag" "$begin$earlier_rest_of_tag" config.yaml "/$train_set/"
}

refuse_other_set() { # EXPERIMENT: ends if its training, which would be resumed, is of another training set
    [ -f "$1/config.yaml" ] && [ -f "$1/checkpoint.pth" ] || return 0
    grep -qF -e "/$train_set/" "$1/config.yaml" ||
        die "$1 holds a training of another set than --train_set $train_set (its config.yaml names it); give another" \
            "--asr_tag, and begin with its weights by --pretrained_model if that is meant"
}

other_sets_there() { # prints a sentence on data of other training sets than the one that was asked for
    local folder set option found=()
    for folder in "$data_feats"/org/*/; do
        set=${folder%/} set=${set##*/} option=
        [ -s "$folder/wav.scp" ] && [ "$set" != "$train_set" ] && [ "$set" != "$valid_set" ] || continue
        if [ -n "${TRAIN_SET_OPTIONS:-}" ]; then
            # A recipe says how its sets are asked for: NAME=OPTION, separated by commas.
            set=${set%_sp} option=,$TRAIN_SET_OPTIONS,
            [[ $set != "$train_set_plain" && $option == *",$set="* ]] || continue
            option=${option#*",$set="} option=${option%%,*}
        fi
        [[ ",$(IFS=,; echo "${found[*]-}")," == *",${option:-$set},"* ]] || found+=("${option:-$set}")
    done
    [ "${#found[@]}" -eq 0 ] || echo "; this is about the set $train_set, and there is data of: $(IFS=,; echo "${found[*]}")"
}

set_lm_names() { # the LM that stages 6-8 train, the one whose tokens are used, and the order of stages
    llm_of_tokens=$hugging_face_model_name_or_path
    stage_order=({1..15})
    [ -n "$lm_train_text" ] && ! "$use_lm" || return 0
    lm_config=${lm_config:+$(find_file lm_config "$lm_config" "$repository")}
    lm_tag=${lm_tag:-$(name_of_config "${lm_config:-train_lm}" "$repository")$(tag_of "$lm_args")}
    lm_exp=${lm_exp:-$expdir/lm_$lm_tag}
    [ "$token_type" = hugging_face ] && [ -z "$hugging_face_model_name_or_path" ] || return 0
    # The tokenizer is there before the LM.
    llm_of_tokens=$lm_exp/tokenizer
    stage_order=({1..4} 6 5 {7..15})
    # Absolute, so that the model finds it from any working folder.
    hugging_face_model_name_or_path=$lm_exp
    [[ $lm_exp = /* ]] || hugging_face_model_name_or_path=$PWD/$lm_exp
}

name_of_config() { # PATH REPOSITORY: prints the name of an experiment, as ESPnet makes it
    # With its folder if it is another recipe's: configurations of one name would train in one folder.
    local folder
    folder=$(cd "$(dirname "$1")" 2>/dev/null && pwd) || true # it need not exist yet
    [[ $folder != "$2"/conf/* ]] || [ "${folder##*/}" = "${PWD##*/}" ] || printf %s_ "${folder##*/}"
    basename "$1" .yaml
}

tag_of() { # TEXT: prints options as part of a folder's name, as ESPnet spells it
    printf %s "$1" | sed -e 's/--/_/g' -e 's/[ |=/]//g'
}

what_names_a_model() { # OPTIONS [earlier]: prints them without those of a training's length, machine and reports
    # A training goes on in its folder, whatever they are. With `earlier`, those that left a name alone before the others.
    local of_its_run=" max_epoch num_workers num_cache_chunks log_interval num_att_plot keep_nbest_models use_tensorboard nbest_averaging_interval "
    [ "${2:-}" = earlier ] || of_its_run+="ngpu patience log_level use_matplotlib use_wandb wandb_project wandb_id wandb_entity wandb_name wandb_model_log_interval dist_backend multiprocessing_distributed cudnn_benchmark cudnn_enabled detect_anomaly "
    local word kept=() is_left_out=false
    for word in $1; do
        if [[ $word == --* ]]; then
            is_left_out=false
            [[ $of_its_run != *" $(sed 's/^--//; s/=.*//' <<< "$word") "* ]] || is_left_out=true
        fi
        "$is_left_out" || kept+=("$word")
    done
    echo "${kept[*]-}"
}

here_or_earlier() { # FOLDER EARLIER RECORD TEXT: prints FOLDER, or EARLIER if that alone is there and its RECORD has TEXT
    # Folders had no training set in their names once. Another set's may lie there.
    if [ "$1" != "$2" ] && [ ! -e "$1" ] && grep -qsF -e "$4" "$2/$3"; then
        log "$2 goes on to be used: a new one would be named $1, after its training set"
        echo "$2"
    else
        echo "$1"
    fi
}
