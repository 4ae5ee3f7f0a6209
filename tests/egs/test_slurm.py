"""The recipes' jobs and trainings through a real Slurm, whose daemons run here while tests do: 10 to 15 minutes."""

import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where Debian has daemons, which not every user's PATH names

# Processes are found by their parents and not by control groups, so that this works within a container. Of the four
# processors, some may be made up: jobs here wait more than they compute. Two devices that are everywhere are the GPUs.
# A second node is this machine again, for trainings on two; not every Slurm is built for it.
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
MailProg=/bin/true
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 Gres=gpu:2
NodeName={second} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE
PartitionName=both Nodes=ALL MaxTime=INFINITE
"""
GRES_CONF = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"

SECOND = "second"

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.recipe]
Bash = Callable[..., subprocess.CompletedProcess[str]]
Recipe = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start Slurm, whose nodes are this machine, and return its configuration."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} cannot be found: Debian's packages slurm-wlm and munge have all of Slurm")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    user, host = pwd.getpwuid(os.getuid()).pw_name, socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(SLURM_CONF.format(folder=folder, user=user, host=host, second=SECOND, ports=free_ports(3)))
    (folder / "gres.conf").write_text(GRES_CONF)
    if slurm_version() >= (24, 5):  # older ones do without control groups by themselves, and do not know the word
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    # --force: pytest's folder is closed to other users, who need no Slurm here.
    munge = {name: f"{folder}/munge.{end}" for name, end in (("key-file", "key"), ("socket", "socket"))}
    munge |= {f"{name}-file": f"{folder}/munge.{name}" for name in ("pid", "log", "seed")}
    daemons = [start(folder, "munged", "--force", "--foreground", *(f"--{name}={munge[name]}" for name in munge))]
    try:
        wait_until((folder / "munge.socket").exists)
        daemons.append(start(folder, "slurmctld", "-D", "-f", str(conf)))
        daemons += [start(folder, "slurmd", "-D", "-N", node, "-f", str(conf)) for node in (host, SECOND)]
        wait_until(lambda: state_of(conf, host) == "idle")
        yield conf
        ask(conf, "scancel", "--partition", "test")
        wait_until(lambda: ask(conf, "squeue", "--noheader") == "")
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(30)


def state_of(conf: Path, node: str) -> str:
    return ask(conf, "sinfo", "--noheader", "--nodes", node, "--partition", "both", "--format", "%T").strip()


def start(folder: Path, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    with (folder / f"{program}.out").open("ab") as output:
        # They end when pytest does, however it ends.
        command = ["setpriv", "--pdeathsig", "TERM", shutil.which(program, path=PATH) or program, *arguments]
        # A Ctrl-C is for the tests, which then end the daemons.
        return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def ask(conf: Path, *command: str) -> str:
    environment = os.environ | {"SLURM_CONF": str(conf)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def slurm_version() -> tuple[int, int]:
    command = [shutil.which("slurmctld", path=PATH) or "slurmctld", "-V"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture
def slurm(cluster: Path, bash: Bash, monkeypatch: pytest.MonkeyPatch) -> Bash:
    """Run a script with all helpers sourced and jobs that go to Slurm."""
    monkeypatch.setenv("SLURM_CONF", str(cluster))
    # Slurm counts time limits in minutes.
    return lambda script: bash(f"cmd_backend=slurm; {script}", timeout_s=300)


def test_parts_run_with_their_numbers_and_gpus_of_their_own(slurm: Bash, tmp_path: Path) -> None:
    done = slurm("run_jobs title 4 1 d/x.@JOB@.log bash -c 'echo part @JOB@ on $CUDA_VISIBLE_DEVICES; sleep 1' 'a b'")
    assert done.returncode == 0, done.stderr
    assert "title: 4 job(s) done" in done.stderr
    said = [(tmp_path / f"d/x.{job}.log").read_text().split() for job in (1, 2, 3, 4)]
    assert [words[1] for words in said] == ["1", "2", "3", "4"] and {words[-1] for words in said} == {"0", "1"}


def test_a_failed_part_is_named_with_its_log_and_the_others_run_to_their_ends(slurm: Bash, tmp_path: Path) -> None:
    job = "[ $0 != 2 ] || { echo reason two; exit 3; }; sleep 1; echo done"
    done = slurm(f"run_jobs title 3 0 x.@JOB@.log bash -c '{job}' @JOB@; echo not reached")
    assert done.returncode == 1 and done.stdout == ""
    assert "reason two" in done.stderr and "title: job 2 of 3; its log is x.2.log" in done.stderr
    assert [(tmp_path / f"x.{job}.log").read_text() for job in (1, 3)] == ["done\n"] * 2


def test_a_part_that_slurm_ends_at_its_time_limit_is_named(slurm: Bash) -> None:
    done = slurm(
        "sbatch_cpu_options='--time 1'; run_jobs title 3 0 x.@JOB@.log bash -c '[ @JOB@ != 2 ] || exec sleep 300'"
    )
    assert done.returncode == 1 and "DUE TO TIME LIMIT" in done.stderr
    assert "title: job 2 of 3; its log is x.2.log" in done.stderr


def test_a_part_that_is_cancelled_before_it_began_is_a_failure(slurm: Bash) -> None:
    # sbatch --wait ends with status 0 then.
    job = "[ @JOB@ != 1 ] || scancel ${SLURM_ARRAY_JOB_ID}_3"
    script = f"sbatch_cpu_options='--cpus-per-task 4'; run_jobs title 3 0 x.@JOB@.log bash -c '{job}'"
    done = slurm(f"job_seconds_to_see_files=2; saves_results=yes; {script} || echo returned $?")
    assert done.returncode == 0 and done.stdout == "returned 1\n"
    assert "title: job 3 of 3 failed; it never began" in done.stderr


def test_an_array_that_slurm_refuses_is_a_failure_with_its_words(slurm: Bash, tmp_path: Path) -> None:
    (tmp_path / "x.1.log").write_text("an earlier run's words")
    done = slurm("sbatch_cpu_options='--partition nowhere'; run_jobs title 2 0 x.@JOB@.log true")
    assert done.returncode == 1 and "invalid partition specified: nowhere" in done.stderr
    assert "title: job 1 of 2; it never began" in done.stderr and "earlier" not in done.stderr


def test_an_interrupted_script_ends_its_array_and_waits_for_it(slurm: Bash, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("trap 'sleep 2; touch ended.$1; exit' TERM; touch started.$1; sleep 60 & wait\n")
    stop = "(while [ ! -e started.1 ] || [ ! -e started.2 ]; do sleep 0.1; done; kill -TERM $$) &"
    done = slurm(f"{stop} run_jobs 'a title' 2 0 x.@JOB@.log bash job.sh @JOB@; echo not reached")
    assert done.returncode == 143 and done.stdout == ""
    assert sorted(path.name for path in tmp_path.glob("ended.*")) == ["ended.1", "ended.2"]


def test_a_live_job_is_seen_and_logged_and_its_failure_ends_the_script(slurm: Bash, tmp_path: Path) -> None:
    done = slurm("run_live d/x.log bash -c 'echo words of job $SLURM_JOB_ID; exit 3'; echo not reached")
    assert done.returncode == 1 and re.search(r"words of job \d+\n", done.stderr) and done.stdout == ""
    assert (tmp_path / "d/x.log").read_text().startswith("words of job ")


# What a training is to the scheduler: it counts to 40 in 40 s, saves at a SIGTERM, and goes on from there.
COUNTER = """trap 'echo saved at $count; echo $count > count; exit 75' TERM
count=$(cat count 2>/dev/null || echo 0)
echo starts at $count
while [ $count -lt ${1:-40} ]; do sleep 1 & wait $!; count=$((count + 1)); done
"""


def test_a_training_saves_before_its_time_limit_and_goes_on_in_a_new_job(slurm: Bash, tmp_path: Path) -> None:
    (tmp_path / "train.sh").write_text(COUNTER)
    limit = "sbatch_gpu_options='--time 1' requeue_warning_s=40"
    done = slurm(f"{limit}; run_training 1 1 t.log bash train.sh; echo finished")
    assert done.returncode == 0 and done.stdout == "finished\n", done.stderr
    assert "submitting it again, 1 of at most 100 times" in done.stderr
    said = (tmp_path / "t.log").read_text()
    saved, starts = (re.findall(rf"{word} at (\d+)", said) for word in ("saved", "starts"))
    assert starts == ["0", *saved] and int(saved[0]) > 0 and "TIME LIMIT" not in said


def test_a_signal_to_the_script_reaches_the_training_which_saves(slurm: Bash, tmp_path: Path) -> None:
    # srun would kill it.
    (tmp_path / "train.sh").write_text(f"touch started\n{COUNTER}")
    stop = "(while [ ! -e started ]; do sleep 0.1; done; sleep 2; kill -TERM $$) &"
    done = slurm(f"{stop} run_training 0 1 t.log bash train.sh 60")
    assert done.returncode == 75 and "submitting it again" not in done.stderr
    assert "saved at " in (tmp_path / "t.log").read_text() and (tmp_path / "count").exists()


def test_a_signal_to_the_script_takes_back_a_training_that_waits(slurm: Bash, tmp_path: Path) -> None:
    assert slurm("sbatch --job-name hold --cpus-per-task 4 --wrap 'touch held; exec sleep 300'").returncode == 0
    wait_until((tmp_path / "held").exists)
    stop = "(while ! squeue --noheader | grep -q ' PD '; do sleep 0.2; done; kill -TERM $$) &"
    done = slurm(f"{stop} run_training 0 1 t.log touch trained; echo not reached")
    assert done.returncode == 1 and done.stdout == "" and "submitting it again" not in done.stderr
    assert " PD " not in slurm("squeue; scancel --name hold").stdout
    assert not (tmp_path / "trained").exists()


def batch_script(options: str) -> str:
    """The batch script of docs/howto/training.md, with more options."""
    (script,) = re.findall(r"```sh\n(#SBATCH .*?)```", (ROOT / "docs/howto/training.md").read_text(), re.DOTALL)
    return f"#!/usr/bin/env bash\n#SBATCH {options}\n{script}"


@pytest.mark.parametrize("backend", ["local", "slurm"])
def test_a_recipe_within_a_job_is_requeued_by_the_script_of_the_docs(slurm: Bash, tmp_path: Path, backend: str) -> None:
    (tmp_path / "train.sh").write_text(COUNTER)
    helpers = "".join(f". {ROOT}/egs/utils/{name}.sh; " for name in ("log", "jobs", "training"))
    (tmp_path / "run.sh").write_text(
        f"#!/usr/bin/env bash\nset -euo pipefail\n{helpers}cmd_backend={backend}\n"
        "run_training 0 1 t.log bash train.sh\n"
    )
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "batch.sh").write_text(batch_script("--output batch.log --signal=B:TERM@40"))
    # The signal of --signal, sent by hand: a busy machine may reach a time limit before the training has begun.
    warn = "while ! grep -qs 'starts at' t.log; do sleep 0.2; done; sleep 3; scancel --batch --signal TERM $job"
    done = slurm(f'job=$(sbatch --parsable batch.sh); {warn}; while [ -n "$(squeue --noheader)" ]; do sleep 1; done')
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "t.log").read_text()
    saved, starts = (re.findall(rf"{word} at (\d+)", said) for word in ("saved", "starts"))
    assert starts == ["0", *saved] and int(saved[0]) > 0, said
    state = slurm("scontrol --oneliner show jobs | tail -n 1").stdout
    assert "JobState=COMPLETED" in state and "Restarts=1" in state


def test_a_recipe_that_fails_within_a_job_fails_the_job(slurm: Bash, tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "batch.sh").write_text(batch_script("--output batch.log"))
    assert slurm("sbatch --wait batch.sh").returncode == 3


TINY = ["--asr_config", "conf/tiny/train_larm.yaml", "--inference_config", "conf/decode_ctc_greedy.yaml"]
TINY += ["--asr_tag", "tiny", "--inference_asr_model", "latest.pth", "--batch_size", "1"]


def test_a_recipe_that_slurm_and_its_caller_interrupt_trains_each_epoch_once(
    slurm: Bash, recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "cmd.sh").write_text("cmd_backend=slurm\n")
    done = recipe(*TINY, "--nj", "2", "--stop_stage", "stats")
    assert done.returncode == 0 and "stats: 2 job(s) done" in done.stderr, done.stderr
    train_log = tmp_path / "exp/asr_tiny/train.log"
    with ThreadPoolExecutor() as pool:
        train = pool.submit(recipe, *TINY, "--stage", "train", "--asr_args", "--max_epoch 9999")
        wait_until(lambda: train_log.exists() and "1epoch results" in train_log.read_text(), 300)
        # As Slurm does before a time limit, which a busy machine might reach before its first epoch.
        (step,) = slurm("squeue --noheader --steps --format %i").stdout.split()
        assert slurm(f"scancel --signal TERM {step}").returncode == 0
        wait_until(lambda: "epoch started" in train_log.read_text().partition("SIGTERM: saving")[2], 300)
        (script,) = re.findall(r"training-(\d+)", slurm("squeue --noheader --format %j").stdout)
        os.kill(int(script), signal.SIGTERM)
        done = train.result()
    assert done.returncode == 75, done.stderr
    assert done.stderr.count("training was interrupted and has saved; submitting it again") == 1
    said = train_log.read_text()
    assert said.count("SIGTERM: saving") == 2
    epochs = len(re.findall(r"epoch results: ", said))
    done = recipe(*TINY, "--stage", "train", "--stop_stage", "train", "--asr_args", f"--max_epoch {epochs + 1}")
    assert done.returncode == 0, done.stderr
    trained = re.findall(r" (\d+)epoch results: ", train_log.read_text())
    assert [int(epoch) for epoch in trained] == list(range(1, epochs + 2))


def test_a_recipe_trains_on_two_nodes_and_resumes(cluster: Path, slurm: Bash, recipe: Recipe, tmp_path: Path) -> None:
    if state_of(cluster, SECOND) != "idle":
        pytest.skip("this Slurm runs one node on a machine: it was built without --enable-multiple-slurmd")
    (tmp_path / "cmd.sh").write_text("cmd_backend=slurm sbatch_gpu_options='--partition both'\n")
    train = [*TINY, "--num_nodes", "2", "--stop_stage", "train", "--asr_args"]
    done = recipe(*train, "--max_epoch 1")
    assert done.returncode == 0, done.stderr
    log = tmp_path / "exp/asr_tiny/train.log"
    # Its first process of two speaks.
    assert ":0/2] " in log.read_text() and "1epoch results: " in log.read_text()
    done = recipe(*train, "--max_epoch 2")
    assert done.returncode == 0, done.stderr
    assert re.findall(r" (\d+)epoch results: ", log.read_text()) == ["1", "2"]
    assert not list(log.parent.glob(".dist_init*"))


def test_a_recipe_decodes_in_parts_as_it_does_here_and_names_a_part_that_fails(
    slurm: Bash, recipe: Recipe, tmp_path: Path
) -> None:
    options = [*TINY, "--asr_args", "--max_epoch 1", "--stop_stage", "decode"]
    assert recipe(*options, "--inference_nj", "1").returncode == 0
    (text,) = (tmp_path / "exp/asr_tiny").glob("*/test/text")
    here = text.read_text()
    (tmp_path / "cmd.sh").write_text("cmd_backend=slurm\n")
    done = recipe(*options, "--stage", "decode", "--inference_nj", "2")
    assert done.returncode == 0 and "decode test: 2 job(s) done" in done.stderr, done.stderr
    assert len(here.splitlines()) == 3 and text.read_text() == here
    (tmp_path / "source/audio/test/2.flac").write_bytes(b"damaged")
    done = recipe(*options, "--stage", "decode", "--inference_nj", "2")
    assert done.returncode == 1
    assert re.search(r"decode test: job 2 of 2 failed; its log is \S+\.2\.log", done.stderr), done.stderr
    assert text.read_text().splitlines() == here.splitlines()[:2]
