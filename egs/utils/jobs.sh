# shellcheck shell=bash disable=SC2016 # what is in single quotes is evaluated at a signal, or by the scheduler's shell
# Runs commands here or through a scheduler, as cmd_backend in cmd.sh says. Sourced after log.sh.
#
# A job that ends leaves an empty file in .jobs beside the logs: failed.NUMBER, so that the FIRST failing log is the one
# shown, or finished.NUMBER, which are counted. A signal to the script ends its jobs.

cmd_backend=${cmd_backend:-local}  # local or slurm
sbatch_cpu_options=${sbatch_cpu_options:-}
sbatch_gpu_options=${sbatch_gpu_options:-}
job_seconds_between_reports=10
job_seconds_to_end=20  # after a signal; then jobs are killed
job_seconds_to_see_files=60  # slurm: how late one machine may see another's files

num_cores() { # prints how many cores this process may use; OMP_NUM_THREADS, which nproc obeys, is about threads
    env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc
}

end_jobs_at_signals() { # COMMAND: runs it at INT or TERM before the script ends; a second signal ends a script that waits
    # shellcheck disable=SC2064 # COMMAND is evaluated at the signal, by its own quotes
    trap "trap - INT TERM; { $1; } || true; say_what_to_repeat; exit 130" INT
    # shellcheck disable=SC2064
    trap "trap - INT TERM; { $1; } || true; say_what_to_repeat; exit 143" TERM
}

say_what_to_repeat() {
    local where=${running_stage_name:+ with --stage $running_stage_name}
    log "a signal ended ${running_stage:-the script} and its jobs; the same command$where repeats it"
}

start_group() { # COMMAND...: starts it in a process group of its own, whose number is in $!
    # A Ctrl-C at a terminal then reaches the script alone, and a signal to the group all that the job has started.
    set -m
    "$@" &
    set +m
}

end_groups() { # GROUP...: ends all processes of those whose leader still runs; kills what is left after a while
    local group running wanted=() end=$((SECONDS + job_seconds_to_end))
    running=" $(jobs -rp | tr '\n' ' ')"
    # Another process may have the number of a leader that has ended.
    for group in "$@"; do [[ $running != *" $group "* ]] || wanted+=("$group"); done
    for group in ${wanted[@]+"${wanted[@]}"}; do
        kill -TERM -- "-$group" 2>/dev/null || true
    done
    for group in ${wanted[@]+"${wanted[@]}"}; do
        while [ "$SECONDS" -lt "$end" ] && kill -0 -- "-$group" 2>/dev/null; do sleep 0.1; done
        kill -KILL -- "-$group" 2>/dev/null || true
    done
}

run_group() { # COMMAND...: runs it to its end, and returns its status; a signal to the script ends it
    local status=0 job
    start_group "$@"
    job=$!
    end_jobs_at_signals 'end_groups "$job"; wait "$job"'
    wait "$job" || status=$?
    trap - INT TERM
    return "$status"
}

take_folder() { # FOLDER: keeps other scripts out of it until this one and its jobs have ended, however they end
    local descriptor status=0
    mkdir -p "$1"
    exec {descriptor}>> "$1/.run.lock"
    python3 - "$descriptor" << 'END' || status=$?
import fcntl, sys
try:
    fcntl.flock(int(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(75)
except OSError as error:
    print(f"the folder cannot be locked ({error}): start no second script that writes there", file=sys.stderr)
END
    [ "$status" -ne 75 ] || die "$1 is being written by $(cat "$1/.run.lock"); wait for it, end it, or name another folder"
    echo "process $$ on $(uname -n) since $(date '+%F %T')" > "$1/.run.lock"
}

# With saves_results set, a failure is returned, so that the caller can save what the jobs did. With counts_done, a
# function that prints from LOG how many utterances all jobs have done, and counts_of, their number, progress is counted.
run_jobs() { # TITLE NUM_JOBS NUM_GPUS LOG COMMAND...: @JOB@ in LOG and COMMAND becomes 1 ... NUM_JOBS
    local title=$1 num_jobs=$2 num_gpus=$3 log=$4 dir first start=$SECONDS reporter status=0
    local reason="it never began: the scheduler has refused it (above), or somebody cancelled it"
    shift 4
    dir=$(dirname "$log")
    rm -rf "$dir/.jobs"
    mkdir -p "$dir/.jobs"
    report_jobs "$title" "$num_jobs" "$log" &
    reporter=$!
    case $cmd_backend in
        local) run_jobs_here "$num_jobs" "$num_gpus" "$log" "$@" || status=$? ;;
        slurm) run_jobs_by_slurm "$title" "$num_jobs" "$num_gpus" "$log" "$@" || status=$? ;;
    esac
    kill "$reporter" 2>/dev/null || true
    wait "$reporter" 2>/dev/null || true
    if [ "$status" -ne 0 ]; then
        first=$(first_failed "$num_jobs" "$dir")
        log=${log//@JOB@/$first}
        if [ -e "$log" ]; then show_tail "$log"; reason="its log is $log"; fi
        if [ -n "${saves_results:-}" ]; then
            log "$title: job $first of $num_jobs failed; $reason"
            return 1
        fi
        fail "$title: job $first of $num_jobs; $reason"
    fi
    log "$title: $num_jobs job(s) done in $((SECONDS - start)) s; logs: ${log//@JOB@/*}"
}

report_jobs() { # TITLE NUM_JOBS LOG: logs the jobs' progress every few seconds, until killed or left alone
    local sleeper=
    trap 'kill $sleeper 2>/dev/null; exit 0' TERM
    local start=$SECONDS
    while true; do
        sleep "$job_seconds_between_reports" &
        sleeper=$!
        wait "$sleeper"
        # kill -0 would not do: a script that has ended and that nobody waited for yet is still there.
        grep -qs "^PPid:[[:space:]]*$$\$" "/proc/$BASHPID/status" || exit 0
        log "$1: $((SECONDS - start)) s$(progress_of "$2" "$3" $((SECONDS - start)))"
    done
}

progress_of() { # NUM_JOBS LOG SECONDS: prints what is done, or the last line of the first job that is not finished
    local job last counted='' dir
    dir=$(dirname "$2")
    job=$(first_unfinished "$1" "$dir")
    [ -z "${counts_done:-}" ] || counted=$(share_done "$("$counts_done" "$2")" "${counts_of:-0}" "$3")
    last=$(grep -s 'INFO: ' "${2//@JOB@/$job}" | tail -n 1 | sed 's/.*INFO: //' | cut -c 1-100 || true)
    [ "$1" -eq 1 ] || last="$(num_finished "$dir") of $1 jobs done${last:+, job $job: $last}"
    [ -z "$counted" ] || last=$counted
    echo "${last:+, $last}"
}

first_unfinished() { # NUM_JOBS FOLDER: prints the number of the first job that has not finished, or of the last
    local job
    for ((job = 1; job < $1; job++)); do [ -e "$2/.jobs/finished.$job" ] || break; done
    echo "$job"
}

num_finished() { # FOLDER
    find "$1/.jobs" -name 'finished.*' | wc -l
}

first_failed() { # NUM_JOBS FOLDER: prints the number of the job that failed first, or was ended without a word
    local failed
    failed=$(find "$2/.jobs" -name 'failed.*' -printf '%T@ %f\n' | sort -n | sed 's/.*failed\.//; q')
    echo "${failed:-$(first_unfinished "$1" "$2")}"
}

share_done() { # DONE ALL SECONDS: prints `12 of 40 utterances, about 3 min left`; nothing where nothing is done
    [ "$1" -gt 0 ] || return 0
    local left=$(($3 * ($2 > $1 ? $2 - $1 : 0) / $1))
    echo "$1 of $2 utterances, about $( ((left >= 120)) && echo "$((left / 60)) min" || echo "$left s") left"
}

run_jobs_here() { # NUM_JOBS NUM_GPUS LOG COMMAND...: runs as many jobs at a time as there are cores (GPUs)
    local num_jobs=$1 num_gpus=$2 log=$3 dir job slots slot gpus=() pids=() slot_pids=()
    shift 3
    dir=$(dirname "$log")
    slots=$(num_cores)
    if [ "$num_gpus" -gt 0 ]; then
        mapfile -t gpus < <(visible_gpus)
        slots=$((${#gpus[@]} / num_gpus))
        [ "$slots" -ge 1 ] || { kill "$reporter"; die "jobs want $num_gpus GPU(s), only ${#gpus[@]} can be seen"; }
    fi
    end_jobs_at_signals 'kill "$reporter" 2>/dev/null; end_groups "${pids[@]}"; wait "${pids[@]}"'
    for ((job = 1; job <= num_jobs; job++)); do
        until take_free_slot; do wait -n || true; done
        ! compgen -G "$dir/.jobs/failed.*" > /dev/null || break
        start_group run_one_job "$job" "$(IFS=,; echo "${gpus[*]:slot * num_gpus:num_gpus}")" "${log//@JOB@/$job}" \
            "${@//@JOB@/$job}"
        pids+=($!) slot_pids[slot]=$!
    done
    for job in "${pids[@]}"; do wait "$job" || true; done
    trap - INT TERM
    [ "$(num_finished "$dir")" -eq "$num_jobs" ]
}

take_free_slot() { # sets `slot` to one of `slots` whose job in `slot_pids` has ended; fails if all are at work
    local running
    running=" $(jobs -rp | tr '\n' ' ')"
    for ((slot = 0; slot < slots; slot++)); do
        [[ $running == *" ${slot_pids[slot]:-none} "* ]] || return 0
    done
    return 1
}

visible_gpus() { # prints the GPUs that CUDA_VISIBLE_DEVICES names, or all, one a line
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        tr ',' '\n' <<< "$CUDA_VISIBLE_DEVICES" | sed -e '/^-/,$d' -e '/^ *$/d'
    else
        nvidia-smi --list-gpus 2>/dev/null | sed -n 's/^GPU \([0-9]*\):.*/\1/p'
    fi
}

run_one_job() { # JOB DEVICES LOG COMMAND...
    local job=$1 devices=$2 log=$3 child='' status=0 result=finished
    shift 3
    [ -z "$devices" ] || export CUDA_VISIBLE_DEVICES=$devices
    # A signal goes to the whole group, and ends the wait and not the job.
    trap : TERM
    "$@" > "$log" 2>&1 &
    child=$!
    until wait "$child" || status=$? result=failed; ! kill -0 "$child" 2>/dev/null; do :; done
    touch "$(dirname "$log")/.jobs/$result.$job"
    return "$status"
}

run_jobs_by_slurm() { # TITLE NUM_JOBS NUM_GPUS LOG COMMAND...
    local title=$1 num_jobs=$2 num_gpus=$3 log=$4 dir script name waiter job tries=0 status=0 options=$sbatch_cpu_options
    shift 4
    [ "$num_gpus" -eq 0 ] || options="$sbatch_gpu_options --gres=gpu:$num_gpus"
    dir=$(dirname "$log")
    script=$dir/.job.sh
    # A job that a scheduler never starts has no log to show.
    for ((job = 1; job <= num_jobs; job++)); do rm -f "${log//@JOB@/$job}"; done
    {
        # When the script ends, Slurm kills what is left: at a signal to all processes, it waits for the command.
        printf '#!/usr/bin/env bash\ntrap : TERM\nresult=finished jobs=%q/.jobs\n' "$dir"
        # A job that Slurm has interrupted and starts again has not failed.
        printf 'rm -f "$jobs/failed.$SLURM_ARRAY_TASK_ID"\n'
        printf '%q ' "$@" | sed "s/@JOB@/\${SLURM_ARRAY_TASK_ID}/g"
        printf '|| result=failed\ntouch "$jobs/$result.$SLURM_ARRAY_TASK_ID"\n[ $result = finished ]\n'
    } > "$script"
    # The array can be cancelled by a name of its own; sbatch alone knows its number, and waits.
    name=${title// /-}-$$
    # shellcheck disable=SC2086 # the options are words
    sbatch --wait --quiet --job-name "$name" --array "1-$num_jobs" --output "${log//@JOB@/%a}" $options "$script" &
    waiter=$!
    end_jobs_at_signals 'kill "$waiter" "$reporter" 2>/dev/null; wait "$waiter"; cancel_array "$name"'
    wait "$waiter" || status=$?
    # To sbatch, a job that was cancelled while it waited has not failed.
    while [ "$status" -eq 0 ] && [ "$(num_finished "$dir")" -lt "$num_jobs" ]; do
        [ $((tries += 1)) -le "$job_seconds_to_see_files" ] || status=1
        sleep 1
    done
    trap - INT TERM
    return "$status"
}

cancel_array() { # NAME: ends its jobs, and waits until they have ended
    scancel --name "$1"
    while [ -n "$(squeue --noheader --name "$1" 2>/dev/null)" ]; do sleep 0.5; done
}

run_live() { # LOG COMMAND...: runs one job, which may start processes, with its output on the screen and in LOG
    local log=$1 status=0 screen tee job
    shift
    mkdir -p "$(dirname "$log")"
    if [ "$cmd_backend" = slurm ]; then
        # shellcheck disable=SC2206 # the options are words
        local launcher=(srun --ntasks 1 --cpus-per-task "${nj:-1}" $sbatch_cpu_options)
        set -- "${launcher[@]}" "$@"
    fi
    # tee runs beside the script: bash would wait for the end of a pipe before it looks at a signal.
    exec {screen}> >(tee "$log" >&2)
    tee=$!
    start_group "$@" >&"$screen" 2>&1
    job=$!
    exec {screen}>&-
    end_jobs_at_signals 'end_groups "$job"; wait "$job"'
    wait "$job" || status=$?
    trap - INT TERM
    wait "$tee" || true
    [ "$status" -eq 0 ] || fail "its output stands above and in $log"
}
