# shellcheck shell=bash
# Runs commands here or through a scheduler, as cmd_backend in cmd.sh says. Sourced after log.sh.
#
# A job that fails writes its number to a file beside the logs, so that the FIRST failing log is the one shown.

cmd_backend=${cmd_backend:-local}  # local or slurm
sbatch_cpu_options=${sbatch_cpu_options:-}
sbatch_gpu_options=${sbatch_gpu_options:-}
job_seconds_between_reports=10

num_cores() { # that this process may use; OMP_NUM_THREADS, which nproc would obey, is about threads and not jobs
    env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc
}

# With saves_results set, a failure is returned, so that the caller can save what the jobs did.
run_jobs() { # TITLE NUM_JOBS NUM_GPUS LOG COMMAND...: @JOB@ in LOG and COMMAND becomes 1 ... NUM_JOBS
    local title=$1 num_jobs=$2 num_gpus=$3 log=$4 failed start=$SECONDS reporter status=0
    shift 4
    failed=$(dirname "$log")/.failed_jobs
    mkdir -p "$(dirname "$log")"
    rm -f "$failed"
    report_jobs "$title" "${log//@JOB@/1}" &
    reporter=$!
    case $cmd_backend in
        local) run_jobs_here "$num_jobs" "$num_gpus" "$log" "$failed" "$@" || status=$? ;;
        slurm) run_jobs_by_slurm "$title" "$num_jobs" "$num_gpus" "$log" "$failed" "$@" || status=$? ;;
        *) kill "$reporter"; die "cmd_backend=$cmd_backend in cmd.sh is not known; allowed: local, slurm" ;;
    esac
    kill "$reporter" 2>/dev/null || true
    wait "$reporter" 2>/dev/null || true
    if [ -s "$failed" ] || [ "$status" -ne 0 ]; then
        local first=1
        [ ! -s "$failed" ] || first=$(head -n 1 "$failed")
        show_tail "${log//@JOB@/$first}"
        if [ -n "${saves_results:-}" ]; then
            log "$title: job $first of $num_jobs failed; its log is ${log//@JOB@/$first}"
            return 1
        fi
        fail "$title: job $first of $num_jobs; its log is ${log//@JOB@/$first}"
    fi
    log "$title: $num_jobs job(s) done in $((SECONDS - start)) s; logs: ${log//@JOB@/*}"
}

report_jobs() { # TITLE LOG: every few seconds the last line of LOG, until killed or left alone
    local sleeper=
    trap 'kill $sleeper 2>/dev/null; exit 0' TERM
    local start=$SECONDS last
    while true; do
        sleep "$job_seconds_between_reports" &
        sleeper=$!
        wait "$sleeper"
        kill -0 "$$" 2>/dev/null || exit 0
        last=$(grep -s 'INFO: ' "$2" | tail -n 1 | sed 's/.*INFO: //' | cut -c 1-100 || true)
        log "$1: $((SECONDS - start)) s${last:+, $last}"
    done
}

run_jobs_here() { # NUM_JOBS NUM_GPUS LOG FAILED COMMAND...: as many at a time as there are cores (GPUs)
    local num_jobs=$1 num_gpus=$2 log=$3 failed=$4 job slots slot gpus=() pids=() slot_pids=()
    shift 4
    slots=$(num_cores)
    if [ "$num_gpus" -gt 0 ]; then
        mapfile -t gpus < <(visible_gpus)
        slots=$((${#gpus[@]} / num_gpus))
        [ "$slots" -ge 1 ] || { kill "$reporter"; die "jobs want $num_gpus GPU(s), only ${#gpus[@]} can be seen"; }
    fi
    trap 'kill "${pids[@]}" "$reporter" 2>/dev/null; exit 130' INT TERM
    for ((job = 1; job <= num_jobs; job++)); do
        until take_free_slot; do wait -n || true; done
        [ ! -s "$failed" ] || break
        run_one_job "$job" "$(IFS=,; echo "${gpus[*]:slot * num_gpus:num_gpus}")" "${log//@JOB@/$job}" "$failed" "${@//@JOB@/$job}" &
        pids+=($!) slot_pids[slot]=$!
    done
    for job in "${pids[@]}"; do wait "$job" || true; done
    trap - INT TERM
    [ ! -s "$failed" ]
}

take_free_slot() { # sets `slot` to one of `slots` whose job in `slot_pids` has ended; fails if all are at work
    local running
    running=" $(jobs -rp | tr '\n' ' ')"
    for ((slot = 0; slot < slots; slot++)); do
        [[ $running == *" ${slot_pids[slot]:-none} "* ]] || return 0
    done
    return 1
}

visible_gpus() { # a line each: those that CUDA_VISIBLE_DEVICES names, or all
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        tr ',' '\n' <<< "$CUDA_VISIBLE_DEVICES" | sed -e '/^-/,$d' -e '/^ *$/d'
    else
        nvidia-smi --list-gpus 2>/dev/null | sed -n 's/^GPU \([0-9]*\):.*/\1/p'
    fi
}

run_one_job() { # JOB DEVICES LOG FAILED COMMAND...
    local job=$1 devices=$2 log=$3 failed=$4 child status=0
    shift 4
    [ -z "$devices" ] || export CUDA_VISIBLE_DEVICES=$devices
    "$@" > "$log" 2>&1 &
    child=$!
    trap 'kill $child 2>/dev/null' TERM
    wait "$child" || status=$?
    [ "$status" -eq 0 ] || echo "$job" >> "$failed"
    return "$status"
}

run_jobs_by_slurm() { # TITLE NUM_JOBS NUM_GPUS LOG FAILED COMMAND...
    local title=$1 num_jobs=$2 num_gpus=$3 log=$4 failed=$5 script options=$sbatch_cpu_options
    shift 5
    [ "$num_gpus" -eq 0 ] || options="$sbatch_gpu_options --gres=gpu:$num_gpus"
    script=$(dirname "$log")/.job.sh
    {
        echo '#!/usr/bin/env bash'
        printf '%q ' "$@" | sed "s/@JOB@/\${SLURM_ARRAY_TASK_ID}/g"
        # shellcheck disable=SC2016 # the scheduler's shell expands it
        printf '|| { echo "${SLURM_ARRAY_TASK_ID}" >> %q; exit 1; }\n' "$failed"
    } > "$script"
    # shellcheck disable=SC2086 # the options are words
    sbatch --wait --quiet --job-name "$title" --array "1-$num_jobs" --output "${log//@JOB@/%a}" $options "$script"
}

run_live() { # LOG COMMAND...: one job on this machine's screen and in LOG; several processes of its own
    local log=$1 status=0
    shift
    mkdir -p "$(dirname "$log")"
    if [ "$cmd_backend" = slurm ]; then
        # shellcheck disable=SC2206 # the options are words
        local launcher=(srun --ntasks 1 --cpus-per-task "${nj:-1}" $sbatch_cpu_options)
        set -- "${launcher[@]}" "$@"
    fi
    "$@" 2>&1 | tee "$log" >&2 || status=$?
    [ "$status" -eq 0 ] || fail "its output stands above and in $log"
}
