# shellcheck shell=bash
# Finds and cuts the files of a recipe. Sourced after log.sh.

find_file() { # OPTION PATH REPOSITORY: prints PATH from the recipe's folder or from the repository's root
    local candidate
    for candidate in "$2" "$3/$2"; do
        if [ -f "$candidate" ]; then
            echo "$candidate"
            return
        fi
    done
    die "--$1 $2: no such file in $PWD or $3"
}

need_file() { # PATH STAGE: ends unless an earlier stage has made this input
    [ -s "$1" ] || die "$1 is missing; run --stage $2 first"
}

split_keys() { # TABLE NUM_PARTS PREFIX: writes consecutive lines to PREFIX.1.scp ...; prints the number of parts
    local num_lines num_parts=$2
    num_lines=$(wc -l < "$1")
    [ "$num_parts" -le "$num_lines" ] || num_parts=$num_lines
    mkdir -p "$(dirname "$3")"
    awk -v parts="$num_parts" -v lines="$num_lines" -v prefix="$3" '
        { part = int((NR - 1) * parts / lines) + 1; print > (prefix "." part ".scp") }' "$1"
    echo "$num_parts"
}

data_type() { # SET_FOLDER: prints ESPnet's data type of its wav.scp
    case $(cat "$1/audio_format") in
        *ark*) echo kaldi_ark ;;
        *) echo sound ;;
    esac
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

what_names_a_model() { # OPTIONS: prints them without those of a training's length and machine, which goes on in its folder
    local of_its_run=" max_epoch num_workers num_cache_chunks log_interval num_att_plot keep_nbest_models use_tensorboard nbest_averaging_interval "
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
