# shellcheck shell=bash
# Options of a script: its lines `name=value  # meaning` between `# Options` and `# End of options`. Sourced after log.sh.

option_names() { # SCRIPT
    sed -n '/^# Options/,/^# End of options/s/^\([a-z][a-z0-9_]*\)=.*/\1/p' "$1"
}

print_help() { # SCRIPT: prints its header, then its options
    sed -n '2,/^set /{/^# shellcheck/d; /^#/s/^# \{0,1\}//p}' "$1"
    echo
    sed -n '/^# Options/,/^# End of options/{
        s/^\([a-z][a-z0-9_]*\)=\(.*[^ ]\)\{0,1\} *# \(.*\)/  --\1 (\2)\n      \3/p
        s/^# --- \(.*\)/\1/p
    }' "$1"
}

print_recipe_help() { # SCRIPT ARGUMENT...: with --help, prints the help of a recipe, before asr.sh prints its own
    local script=$1 argument
    shift
    for argument in "$@"; do
        case $argument in -h | --help)
            print_help "$script"
            printf '\nThe recipe passes all other options to asr.sh:\n\n'
            return
            ;;
        esac
    done
}

nearest_words() { # WORD CANDIDATE...: prints the three candidates most like it; all of them without Python
    python3 -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:], 3, 0))' "$@" \
        2> /dev/null || echo "${*:2}"
}

parse_options() { # SCRIPT ARGUMENT...: sets the variables of SCRIPT's options; dashes are as good as underscores
    local script=$1 name value names
    shift
    mapfile -t names < <(option_names "$script")
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) print_help "$script" && exit 0 ;;
            --*) ;;
            *) die "got '$1'; options look like --name value (${script##*/} --help lists them)" ;;
        esac
        name=${1#--}
        if [[ $name == *=* ]]; then
            value=${name#*=} name=${name%%=*}
        else
            [ $# -ge 2 ] || die "--$name needs a value"
            value=$2
            shift
        fi
        shift
        name=${name//-/_}
        [[ " ${names[*]} " == *" $name "* ]] ||
            die "unknown option --$name; nearest: --$(nearest_words "$name" "${names[@]}" | sed 's/ /, --/g')"
        case ${!name}:$value in
            true:true | true:false | false:true | false:false) ;;
            true:* | false:*) die "--$name is true or false, got '$value'" ;;
        esac
        printf -v "$name" %s "$value"
    done
}

take_option() { # NAME ARGUMENT...: sets the variable NAME if the option is among the arguments, and `rest` to the others
    local wanted=$1 name
    shift
    rest=()
    while [ $# -gt 0 ]; do
        name=${1%%=*} name=${name//-/_}
        if [ "$name" != "__$wanted" ]; then
            rest+=("$1")
        elif [[ $1 == *=* ]]; then
            printf -v "$wanted" %s "${1#*=}"
        else
            [ $# -ge 2 ] || die "$1 needs a value"
            printf -v "$wanted" %s "$2"
            shift
        fi
        shift
    done
}

callers_path() { # PATH: prints it as seen from the folder in which run.sh was called, or else from the recipe's
    local caller=${ESPNET_LARM_CALLER:-$PWD}
    if [ -z "$1" ] || [[ $1 = /* ]] || [ "$caller" = "$PWD" ] || [ ! -e "$caller/$1" ]; then
        echo "$1"
    else
        echo "$caller/$1"
    fi
}

callers_folder() { # PATH: prints the same, and absolute if it is a folder
    local path
    path=$(callers_path "$1")
    [ ! -d "$path" ] || path=$(cd "$path" && pwd)
    echo "$path"
}
