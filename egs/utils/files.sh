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
    [ -s "$1" ] || die "$1 is missing; run --stage $2 first$(other_sets_there)"
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
