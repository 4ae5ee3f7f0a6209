# shellcheck shell=bash disable=SC2154 # the variables are asr.sh's
# Says at a script's end where things lie and what can be done next. Sourced by asr.sh only.

say_what_is_there() { # STAGE: the last one that was asked for
    local set
    {
        printf '\nwhat                 where\n'
        for set in "$train_set" "$valid_set"; do say_place "data of $set" "$data_feats/$set" wav.scp; done
        say_place tokens "$token_dir" tokens.txt
        [ -z "$ctc_token_type" ] || say_place "tokens of CTC" "$ctc_token_dir" tokens.txt
        [ -z "${lm_exp:-}" ] || say_place LM "$lm_exp" "config.$("$use_lm" && echo yaml || echo json)"
        ! "$use_ngram" || say_place n-gram "$ngram_file"
        say_place statistics "$asr_stats_dir" train/speech_shape
        say_place experiment "$asr_exp" config.yaml
        say_place "log of training" "$asr_exp/train.log"
        say_place "weights to decode" "$asr_exp/$inference_asr_model"
        for set in $eval_sets; do say_place "hypotheses of $set" "$asr_exp/$inference_tag/$set" text; done
        say_place "error rates" "$asr_exp/RESULTS.md"
        say_place pack "$packed"
        printf '\nnext: %s\n' "$(what_is_next "$1")"
    } >&2
}

say_place() { # WHAT PATH [FILE]: prints a row if PATH (and FILE in it) is there
    [ ! -s "$2${3:+/$3}" ] || printf '%-20s %s\n' "$1" "$2"
}

what_is_next() { # STAGE: prints a sentence on what follows it
    local again="the same command with --stage"
    if [ "$1" -lt 11 ]; then
        echo "$again ${stage_names[$1 + 1]} --stop_stage score"
    elif [ "$1" -eq 11 ]; then
        echo "$again decode --stop_stage score"
    elif [ "$1" -eq 12 ]; then
        echo "$again score --stop_stage score"
    elif [ -s "$packed" ]; then
        [[ $packed = /* ]] || printf 'in %s: ' "$PWD"
        echo "espnet-larm transcribe --model $packed RECORDING${hf_repo:+, or $again upload}"
    else
        echo "$again pack --stop_stage pack puts the model into one file that espnet-larm transcribe reads"
    fi
}
