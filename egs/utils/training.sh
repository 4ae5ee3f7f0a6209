# shellcheck shell=bash disable=SC2154 # variables of jobs.sh
# Runs a training and shows its progress. Sourced after jobs.sh.

requeue_status=75  # exit status of a training that a SIGTERM ended and that has saved all it did
requeue_warning_s=${requeue_warning_s:-120}  # slurm: seconds before the time limit at which the SIGTERM comes
max_requeues=${max_requeues:-100}  # slurm: how often an interrupted training is submitted again

run_training() { # NUM_GPUS NUM_NODES LOG COMMAND...: appends to LOG, a line an epoch; returns 0 or requeue_status
    local num_gpus=$1 num_nodes=$2 log=$3 follower status is_stopped=false requeue launcher=() name=training-$$
    shift 3
    if [ "$cmd_backend" = slurm ]; then
        # shellcheck disable=SC2206 # the options are words
        launcher=(srun --job-name "$name" --nodes "$num_nodes" --ntasks-per-node 1 --signal "TERM@$requeue_warning_s"
            $sbatch_gpu_options)
        [ "$num_gpus" -eq 0 ] || launcher+=("--gres=gpu:$num_gpus")
    fi
    touch "$log"
    tail -n 0 -F "$log" > >(show_epochs) 2>/dev/null &
    follower=$!
    for ((requeue = 1; ; requeue++)); do
        run_and_pass_signals "$log" ${launcher[@]+"${launcher[@]}"} "$@"
        # The file in which several nodes met: torch wants a new one.
        rm -f "$(dirname "$log")/.dist_init_$$"
        # Submitted again if the scheduler interrupted it, and not the caller.
        if [ "$status" -ne "$requeue_status" ] || [ "$cmd_backend" != slurm ] || "$is_stopped" ||
            [ "$requeue" -gt "$max_requeues" ]; then
            break
        fi
        log "training was interrupted and has saved; submitting it again, $requeue of at most $max_requeues times"
    done
    # The follower reads once a second; without the pause the last epoch's line would be lost.
    sleep 1.5
    kill "$follower" 2>/dev/null || true
    wait "$follower" 2>/dev/null || true
    [ "$status" -ne 0 ] || return 0
    show_tail "$log"
    if [ "$status" -eq "$requeue_status" ]; then
        log "training was interrupted and has saved; the same command resumes it (status $requeue_status)"
        return "$requeue_status"
    fi
    fail "training ended with status $status; its log is $log, the same command resumes it"
}

run_and_pass_signals() { # LOG COMMAND...: sets `status`, and `is_stopped` if a signal to this script ended COMMAND
    local log=$1 child signals=0 seen=0
    shift
    status=0
    # A signal to this script reaches the training, which then ends in its own way.
    start_group "$@" >> "$log" 2>&1
    child=$!
    trap 'is_stopped=true; ((signals += 1)); ask_to_end "$child"' INT TERM
    wait "$child" || status=$?
    # A signal ends the wait and not the training.
    while [ "$signals" -gt "$seen" ]; do
        seen=$signals status=0
        wait "$child" || status=$?
    done
    # Helpers that a killed training has left; there are none else.
    kill -KILL -- "-$child" 2>/dev/null || true
    trap - INT TERM
}

ask_to_end() { # CHILD: sends the training a SIGTERM
    local step=''
    # srun would kill its job at a SIGTERM, before it saves; srun itself is ended while its job waits for a machine.
    [ "$cmd_backend" != slurm ] || step=$(squeue --noheader --steps --format '%i %j' | sed -n "s/ $name\$//p") || true
    if [ -n "$step" ]; then scancel --signal TERM "$step"; else kill -TERM "$1" 2>/dev/null; fi || true
}

show_epochs() { # reads the train.log of ESPnet or train-lm; logs a line an epoch or checkpoint, and each minute
    # In bash, because awk may read a pipe in blocks, and lines would come epochs late.
    local line of='' left='' train valid accuracy errors
    while IFS= read -r line; do
        if [[ $line =~ ([0-9]+)/([0-9]+)epoch\ started\.?(\ Estimated\ time\ to\ finish:\ (.*))? ]]; then
            of=${BASH_REMATCH[2]} left=${BASH_REMATCH[4]%% and *}
        elif [[ $line =~ ([0-9]+)epoch\ results:\ \[train\](.*)\[valid\](.*) ]]; then
            train=${BASH_REMATCH[2]} valid=${BASH_REMATCH[3]%%\[att_plot\]*}
            accuracy=$(value_of acc "$valid")
            [ "$accuracy" = - ] && accuracy= || accuracy=", valid acc $accuracy"
            # A text LM has no error rate.
            errors=$(value_of cer_ctc "$valid")
            [ "$errors" = - ] && errors= || errors=", valid cer_ctc $(plateau_or "$errors")"
            printf '  epoch %s/%s: loss %s, valid loss %s%s%s; %s%s\n' "${BASH_REMATCH[1]}" "$of" \
                "$(value_of loss "$train")" "$(value_of loss "$valid")" "$errors" "$accuracy" \
                "$(value_of time "$train")" "${left:+, about $left left}" >&2
        elif [[ $line =~ INFO:\ (step\ [0-9]+[^:]*:\ loss\ .*) ]]; then
            printf '  %s\n' "${BASH_REMATCH[1]}" >&2
        fi
    done
}

value_of() { # KEY TEXT: prints the value in `KEY=value, ...`
    [[ ", ${2# }" =~ ,\ $1=([^,]*) ]] && echo "${BASH_REMATCH[1]}" || echo -
}

plateau_or() { # CER: prints it, and that CTC still writes blanks alone where all is wrong
    case $1 in
        1.000 | 0.99?) echo "$1 (nothing is recognised: still on the blank plateau)" ;;
        *) echo "$1" ;;
    esac
}
