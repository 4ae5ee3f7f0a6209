"""The shell helpers: options, jobs, files."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Bash = Callable[[str], subprocess.CompletedProcess[str]]

SCRIPT = """#!/usr/bin/env bash
# What it does.
set -euo pipefail
# Options
# --- General
ngpu=1  # GPUs
test_sets=  # names
skip_train=false  # whether
# End of options
hidden=1  # not an option
"""


@pytest.fixture
def parse(bash: Bash, tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    (tmp_path / "script.sh").write_text(SCRIPT)
    return lambda arguments: bash(
        f'. ./script.sh; parse_options script.sh {arguments}; echo "$ngpu|$test_sets|$skip_train"'
    )


@pytest.mark.parametrize(
    "arguments", ["--test_sets 'a b' --ngpu 0", "--test-sets 'a b' --ngpu=0", "--test-sets='a b' --ngpu 0"]
)
def test_dashes_underscores_and_equal_signs_are_alike(parse: Bash, arguments: str) -> None:
    assert parse(arguments).stdout == "0|a b|false\n"


def test_an_unknown_option_ends_with_status_2_and_the_nearest_names(parse: Bash) -> None:
    done = parse("--test_set x")
    assert done.returncode == 2
    assert "unknown option --test_set; nearest: --test_sets, " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--hidden 2", "unknown option --hidden"),
        ("--ngpu", "--ngpu needs a value"),
        ("ngpu 1", "got 'ngpu'; options look like --name value"),
        ("--skip_train yes", "--skip_train is true or false, got 'yes'"),
    ],
)
def test_misuse_ends_with_status_2(parse: Bash, arguments: str, message: str) -> None:
    done = parse(arguments)
    assert done.returncode == 2 and message in done.stderr


def test_help_shows_header_and_options(parse: Bash) -> None:
    done = parse("--help")
    assert done.returncode == 0
    header, *options = done.stdout.split("\n  --")
    assert header == "What it does.\n\nGeneral"
    assert options == ["ngpu (1)\n      GPUs", "test_sets ()\n      names", "skip_train (false)\n      whether\n"]


def test_an_option_of_the_recipe_is_taken_out(bash: Bash) -> None:
    done = bash(
        'take_option an4_root --ngpu 0 --an4-root "/a b" --stage 3; echo "$an4_root"; printf "<%s>" "${rest[@]}"'
    )
    assert done.stdout == "/a b\n<--ngpu><0><--stage><3>"


def test_jobs_get_their_numbers_and_logs(bash: Bash, tmp_path: Path) -> None:
    done = bash("run_jobs title 3 0 logs/x.@JOB@.log echo part @JOB@ of 3")
    assert done.returncode == 0 and "title: 3 job(s) done" in done.stderr
    assert [(tmp_path / f"logs/x.{job}.log").read_text() for job in (1, 2, 3)] == [
        f"part {job} of 3\n" for job in (1, 2, 3)
    ]


def test_only_the_token_becomes_a_number(bash: Bash, tmp_path: Path) -> None:
    assert bash("run_jobs title 1 0 JOB/x.@JOB@.log echo /JOB/@JOB@").returncode == 0
    assert (tmp_path / "JOB/x.1.log").read_text() == "/JOB/1\n"


def test_jobs_take_free_gpus_of_those_that_the_user_allows(bash: Bash, tmp_path: Path) -> None:
    script = """echo 'echo $CUDA_VISIBLE_DEVICES; [ "$1" != 1 ] || sleep 2; sleep 0.2' > job.sh
        export CUDA_VISIBLE_DEVICES=3,5; run_jobs title 4 1 x.@JOB@.log bash job.sh @JOB@"""
    assert bash(script).returncode == 0
    assert [(tmp_path / f"x.{job}.log").read_text() for job in (1, 2, 3, 4)] == ["3\n", "5\n", "5\n", "5\n"]


def test_too_few_gpus_are_said_at_once(bash: Bash) -> None:
    done = bash("export CUDA_VISIBLE_DEVICES=3; run_jobs title 1 2 x.@JOB@.log true")
    assert done.returncode == 2 and "jobs want 2 GPU(s), only 1 can be seen" in done.stderr


def test_no_reporter_outlives_its_script(bash: Bash) -> None:
    done = bash(
        "job_seconds_between_reports=1; run_jobs title 1 0 x.@JOB@.log sleep 9 & sleep 0.5; kill $!; wait $! || true"
    )
    assert done.returncode == 0 and "title: 1 s" not in done.stderr


@pytest.mark.parametrize(("signal", "status"), [("TERM", 143), ("INT", 130)])
def test_an_interrupted_script_waits_until_its_jobs_have_ended(
    bash: Bash, tmp_path: Path, signal: str, status: int
) -> None:
    (tmp_path / "job.sh").write_text("trap 'sleep 0.3; touch ended.$1; exit' TERM; touch started.$1; sleep 9 & wait\n")
    stop = f"(while [ ! -e started.1 ] || [ ! -e started.2 ]; do sleep 0.1; done; kill -{signal} $$) &"
    done = bash(f"num_cores() {{ echo 2; }}; {stop} saves_results=yes run_jobs title 4 0 x.@JOB@.log bash job.sh @JOB@")
    assert done.returncode == status
    assert sorted(path.name for path in tmp_path.glob("*ed.*")) == ["ended.1", "ended.2", "started.1", "started.2"]


def test_a_signal_is_sent_to_no_job_that_has_ended(bash: Bash, tmp_path: Path) -> None:
    # Its number may be another process's by then.
    (tmp_path / "job.sh").write_text("echo $PPID > pid.$1; [ $1 = 1 ] || { touch started; sleep 9 & wait; }\n")
    script = """kill() { echo "$*" >> killed; builtin kill "$@"; }
        (while [ ! -e started ]; do sleep 0.1; done; builtin kill -TERM $$) &
        num_cores() { echo 1; }; run_jobs title 2 0 x.@JOB@.log bash job.sh @JOB@"""
    done = bash(script)
    assert done.returncode == 143
    killed = (tmp_path / "killed").read_text().split()
    ended, running = ((tmp_path / f"pid.{job}").read_text().strip() for job in (1, 2))
    assert f"-{running}" in killed and not {ended, f"-{ended}"} & set(killed)


def test_an_interrupted_script_cancels_its_array(bash: Bash) -> None:
    slurm = """cmd_backend=slurm
        sbatch() { echo "sbatch $*" >&2; touch started; exec sleep 9; }
        scancel() { echo "scancel $*" >&2; }
        (while [ ! -e started ]; do sleep 0.1; done; kill -TERM $$) &"""
    done = bash(f"{slurm} run_jobs title 3 0 x.@JOB@.log true; echo not reached")
    assert done.returncode == 143 and done.stdout == ""
    (name,) = re.findall(r"sbatch .*--job-name (\S+)", done.stderr)
    assert f"scancel --name {name}\n" in done.stderr and name.startswith("title-")


def test_an_interrupted_script_ends_its_live_job(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("trap 'echo ended; exit' TERM; touch started; while :; do sleep 0.1; done\n")
    stop = "(while [ ! -e started ]; do sleep 0.1; done; kill -TERM $$) &"
    done = bash(f"{stop} run_live x.log bash job.sh; echo not reached")
    assert done.returncode == 143 and done.stdout == ""
    # The job's shell tells of its sleep, which the signal to all processes of the job has ended.
    assert (tmp_path / "x.log").read_text().splitlines()[-1] == "ended"


@pytest.mark.parametrize("target", ["-TERM $$", "-INT $$", "-INT -- -$$"])
def test_an_interrupted_script_leaves_no_process_of_its_live_jobs_pool(bash: Bash, tmp_path: Path, target: str) -> None:
    (tmp_path / "job.py").write_text(
        "import os, pathlib, time\n"
        "from espnet_larm.data.parallel import map_chunks\n"
        "def work(number, chunk):\n"
        "    pathlib.Path(f'started.{number}').touch()\n"
        "    time.sleep(5)\n"
        "    pathlib.Path(f'survived.{number}').touch()\n"
        "    os._exit(1)\n"
        "if __name__ == '__main__':\n"
        "    map_chunks(work, 'ab', 2, 'done')\n"
    )
    stop = f"(while [ ! -e started.0 ] || [ ! -e started.1 ]; do sleep 0.1; done; kill {target}) &"
    # This returns when the last process has closed descriptor 9.
    done = bash(f"exec 9>&1; export PYTHONPATH={ROOT}; {stop} run_live x.log {sys.executable} job.py; echo not reached")
    assert done.returncode == (143 if "TERM" in target else 130) and done.stdout == ""
    assert sorted(path.name for path in tmp_path.glob("*.[01]")) == ["started.0", "started.1"]


WRITER = """
import pathlib, subprocess, sys, time
if sys.argv[2:]:
    subprocess.Popen([sys.executable, __file__, f"child.{sys.argv[1]}"])
while True:
    with pathlib.Path(f"written.{sys.argv[1]}").open("a") as file:
        file.write("x")
    time.sleep(0.05)
"""


@pytest.mark.parametrize("runner", ["run_jobs title 2 0 x.@JOB@.log", "run_live x.log", "run_group"])
def test_ctrl_c_at_a_terminal_ends_jobs_and_what_they_started(tmp_path: Path, runner: str) -> None:
    # A shell that waits for commands keeps the terminal open after the script: its end would end the jobs, too.
    (tmp_path / "job.py").write_text(WRITER)
    job = "@JOB@" if "@JOB@" in runner else "1"
    (tmp_path / "script.sh").write_text(
        f"set -euo pipefail; . {ROOT}/egs/utils/log.sh; . {ROOT}/egs/utils/jobs.sh\n"
        f"running_stage='stage 12 (decode)' running_stage_name=decode; num_cores() {{ echo 2; }}\n"
        f"{runner} {sys.executable} job.py {job} parent\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvp("bash", ["bash", "--norc", "-i"])
    os.write(terminal, b"bash script.sh; echo status=$?\n")
    wanted = 4 if "@JOB@" in runner else 2
    wait_until(lambda: len(list(tmp_path.glob("written.*"))) == wanted)
    os.write(terminal, b"\x03")
    said = read_until(terminal, rb"status=\d+")
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("written.*"))]
    time.sleep(0.3)
    assert [path.stat().st_size for path in sorted(tmp_path.glob("written.*"))] == sizes
    os.write(terminal, b"exit\n")
    os.waitpid(pid, 0)
    assert "status=130" in said
    assert "a signal ended stage 12 (decode) and its jobs; the same command with --stage decode repeats it" in said


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def read_until(terminal: int, pattern: bytes) -> str:
    """What a terminal shows until it matches."""
    found = b""

    def is_there() -> bool:
        nonlocal found
        if select.select([terminal], [], [], 0.1)[0]:
            found += os.read(terminal, 10_000)
        return re.search(pattern, found) is not None

    wait_until(is_there)
    return found.decode()


def test_progress_counts_jobs_and_shows_the_first_that_is_at_work(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text('echo "INFO: line of $1"; [ "$1" = 1 ] || sleep 0.7\n')
    done = bash(
        "num_cores() { echo 3; }; job_seconds_between_reports=0.4; run_jobs title 3 0 d/x.@JOB@.log bash job.sh @JOB@"
    )
    assert " s, 1 of 3 jobs done, job 2: line of 2\n" in done.stderr


def test_progress_of_an_earlier_run_does_not_count(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / ".jobs").mkdir()
    (tmp_path / ".jobs/finished.1").touch()
    done = bash("job_seconds_between_reports=0.3; num_cores() { echo 2; }; run_jobs title 2 0 x.@JOB@.log sleep 0.5")
    assert " s, 0 of 2 jobs done\n" in done.stderr


def test_the_first_failing_log_is_shown(bash: Bash) -> None:
    script = """echo '[ "$1" = 1 ] || { echo reason two; exit 3; }; sleep 1; echo late; exit 4' > job.sh
        num_cores() { echo 2; }
        run_jobs title 2 0 x.@JOB@.log bash job.sh @JOB@"""
    done = bash(script)
    assert done.returncode == 1
    assert "reason two" in done.stderr and "late" not in done.stderr
    assert "title: job 2 of 2; its log is x.2.log" in done.stderr


def test_no_job_starts_after_a_failure(bash: Bash, tmp_path: Path) -> None:
    bash("num_cores() { echo 1; }; run_jobs title 5 0 x.@JOB@.log false")
    assert [path.name for path in tmp_path.glob("x.*.log")] == ["x.1.log"]


def test_slurm_gets_an_array_and_the_first_failing_log_is_shown(bash: Bash) -> None:
    script = """cmd_backend=slurm sbatch_cpu_options="--partition p"
        sbatch() {
            echo "sbatch $*" >&2; echo bad > x.2.log; touch .jobs/failed.2
            SLURM_ARRAY_TASK_ID=1 bash "${@: -1}" >&2; return 1
        }
        run_jobs title 3 0 x.@JOB@.log echo hello @JOB@ 'a b'"""
    done = bash(script)
    assert re.search(r"--job-name title-\d+ --array 1-3 --output x.%a.log --partition p ./.job.sh", done.stderr)
    assert "hello 1 a b" in done.stderr
    assert done.returncode == 1 and "job 2 of 3" in done.stderr


def test_a_live_job_is_seen_and_logged_and_its_failure_ends_the_script(bash: Bash, tmp_path: Path) -> None:
    done = bash("run_live d/x.log bash -c 'echo words; exit 3'; echo not reached")
    assert done.returncode == 1 and "words" in done.stderr and done.stdout == ""
    assert (tmp_path / "d/x.log").read_text() == "words\n"


def test_training_shows_a_line_an_epoch_and_appends_to_its_log(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text(
        "[vm] INFO: 3/9epoch started. Estimated time to finish: 2 minutes and 5.1 seconds\n"
        "[vm] INFO: 3epoch results: [train] loss_ctc=9.1, loss=8.2, time=5.3 seconds, total_count=1, "
        "[valid] loss_ctc=7.7, cer_ctc=0.500, loss=7.6, time=1 seconds, [att_plot] time=1\n"
    )
    (tmp_path / "t.log").write_text("earlier\n")
    done = bash("run_training 0 1 t.log bash -c 'sleep 0.5; cat lines'")
    assert "epoch 3/9: loss 8.2, valid loss 7.6, valid cer_ctc 0.500; 5.3 seconds, about 2 minutes left" in done.stderr
    assert (tmp_path / "t.log").read_text().startswith("earlier\n[vm]")


def test_a_failed_training_shows_the_end_of_its_log(bash: Bash) -> None:
    done = bash("run_training 0 1 t.log bash -c 'echo out of memory; exit 7'")
    assert done.returncode == 1 and "out of memory" in done.stderr and "the same command resumes it" in done.stderr


SRUN = """
mkdir bin; PATH=$PWD/bin:$PATH cmd_backend=slurm
printf '#!/bin/sh\\necho "$@" >> srun.log; [ $(wc -l < srun.log) -gt %s ] || exit 75\\n' {} > bin/srun
chmod +x bin/srun
"""


def test_an_interrupted_training_is_submitted_again(bash: Bash, tmp_path: Path) -> None:
    done = bash(SRUN.format(2) + "run_training 1 1 t.log train; echo finished")
    assert done.stdout == "finished\n" and done.returncode == 0
    submitted = (tmp_path / "srun.log").read_text().splitlines()
    (options,) = set(submitted)
    assert re.fullmatch(
        r"--job-name training-\d+ --nodes 1 --ntasks-per-node 1 --signal TERM@120 --gres=gpu:1 train", options
    )
    assert len(submitted) == 3
    assert "submitting it again, 2 of at most 100 times" in done.stderr


def test_a_training_is_not_submitted_without_end(bash: Bash, tmp_path: Path) -> None:
    done = bash(SRUN.format(9) + "max_requeues=1; run_training 0 1 t.log train")
    assert done.returncode == 75 and "the same command resumes it (status 75)" in done.stderr
    assert len((tmp_path / "srun.log").read_text().splitlines()) == 2


def test_a_stopped_script_ends_its_training_and_asks_for_a_requeue(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin/srun"
    srun.write_text("#!/bin/bash\ntrap 'echo saved; exit 75' TERM\ntouch started\nwhile :; do sleep 0.1; done\n")
    srun.chmod(0o755)
    stop = "(while [ ! -e started ]; do sleep 0.1; done; kill -TERM $$) &"
    done = bash(f"{stop} PATH=$PWD/bin:$PATH cmd_backend=slurm; run_training 0 1 t.log x")
    assert done.returncode == 75 and (tmp_path / "t.log").read_text() == "saved\n"


def test_keys_are_cut_into_parts_of_nearly_one_size(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("".join(f"{key} x\n" for key in "abcde"))
    assert bash("split_keys wav.scp 2 parts/k").stdout == "2\n"
    assert [(tmp_path / f"parts/k.{part}.scp").read_text().count("\n") for part in (1, 2)] == [3, 2]
    assert bash("split_keys wav.scp 9 more/k").stdout == "5\n"


def test_a_file_is_found_from_the_recipe_or_the_repository(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "repository/conf").mkdir(parents=True)
    (tmp_path / "repository/conf/a.yaml").touch()
    assert bash("find_file asr_config conf/a.yaml repository").stdout == "repository/conf/a.yaml\n"
    done = bash("x=$(find_file asr_config conf/b.yaml repository); echo not reached")
    assert done.returncode == 2 and "--asr_config conf/b.yaml: no such file in" in done.stderr


def test_a_download_is_checked_and_a_complete_file_left_alone(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("data")
    sha256 = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
    download = ROOT / "egs/utils/download.sh"
    assert bash(f"{download} file://{tmp_path}/source d/copy {sha256}").returncode == 0
    assert (tmp_path / "d/copy").read_text() == "data"
    assert bash(f"{download} file:///nowhere d/copy {sha256}").returncode == 0
    wrong = bash(f"{download} file:///nowhere d/copy 00")
    assert wrong.returncode == 2 and "expected 00; move it away" in wrong.stderr


def test_a_relative_path_is_the_callers_or_else_the_recipes(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "caller/both").mkdir(parents=True)
    (tmp_path / "recipe/own").mkdir(parents=True)
    (tmp_path / "recipe/both").mkdir()
    paths = "both own gone /else org/lm"
    script = f"cd recipe; ESPNET_LARM_CALLER={tmp_path}/caller; for path in {paths} ''; do callers_path \"$path\"; done"
    assert bash(script).stdout.splitlines() == [f"{tmp_path}/caller/both", *paths.split()[1:], ""]
    folders = bash(script.replace("callers_path", "callers_folder")).stdout.splitlines()
    assert folders == [f"{tmp_path}/caller/both", f"{tmp_path}/recipe/own", *paths.split()[2:], ""]
