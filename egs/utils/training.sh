# shellcheck shell=bash disable=SC2154 # variables of jobs.sh
# Runs a training and shows how it goes. Sourced after jobs.sh.

run_training() { # NUM_GPUS NUM_NODES LOG COMMAND...: appends to LOG and shows a line an epoch
    local num_gpus=$1 num_nodes=$2 log=$3 follower child status=0 launcher=()
    shift 3
    if [ "$cmd_backend" = slurm ]; then
        # shellcheck disable=SC2206 # the options are words
        launcher=(srun --nodes "$num_nodes" --ntasks-per-node 1 $sbatch_gpu_options)
        [ "$num_gpus" -eq 0 ] || launcher+=("--gres=gpu:$num_gpus")
    elif [ "$num_nodes" -gt 1 ]; then
        die "--num_nodes $num_nodes needs a scheduler: set cmd_backend=slurm in cmd.sh"
    fi
    touch "$log"
    tail -n 0 -F "$log" > >(show_epochs) 2>/dev/null &
    follower=$!
    # A signal to this script reaches the training, which then ends in its own way.
    "${launcher[@]}" "$@" >> "$log" 2>&1 &
    child=$!
    trap 'kill -TERM $child 2>/dev/null' INT TERM
    wait "$child" || status=$?
    ! kill -0 "$child" 2>/dev/null || wait "$child" || status=$?
    trap - INT TERM
    # The follower reads once a second; without the pause the last epoch's line would be lost.
    sleep 1.5
    kill "$follower" 2>/dev/null || true
    wait "$follower" 2>/dev/null || true
    [ "$status" -eq 0 ] && return
    show_tail "$log"
    fail "training ended with status $status; its log is $log, the same command resumes it"
}

show_epochs() { # stdin: ESPnet's train.log; stderr: a line an epoch
    # In bash, because awk may read a pipe in blocks, and lines would come epochs late.
    local line of='' left='' train valid
    while IFS= read -r line; do
        if [[ $line =~ ([0-9]+)/([0-9]+)epoch\ started\.?(\ Estimated\ time\ to\ finish:\ (.*))? ]]; then
            of=${BASH_REMATCH[2]} left=${BASH_REMATCH[4]%% and *}
        elif [[ $line =~ ([0-9]+)epoch\ results:\ \[train\](.*)\[valid\](.*) ]]; then
            train=${BASH_REMATCH[2]} valid=${BASH_REMATCH[3]%%\[att_plot\]*}
            printf '  epoch %s/%s: loss %s, valid loss %s, valid cer_ctc %s; %s%s\n' "${BASH_REMATCH[1]}" "$of" \
                "$(value_of loss "$train")" "$(value_of loss "$valid")" "$(value_of cer_ctc "$valid")" \
                "$(value_of time "$train")" "${left:+, about $left left}" >&2
        fi
    done
}

value_of() { # KEY TEXT: of `KEY=value, ...`
    [[ ", ${2# }" =~ ,\ $1=([^,]*) ]] && echo "${BASH_REMATCH[1]}" || echo -
}
