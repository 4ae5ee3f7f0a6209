"""A process of a training that is killed ends all others soon, with one sentence, and the same command resumes."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException

from espnet_larm.train import stopping
from espnet_larm.train.stopping import PEER_LOST_STATUS, ends_with_its_peers, status_after

HERE = Path(__file__).parent
LOST = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:53639."
# torch gives those that do not end at a SIGTERM 30 s; a busy machine takes longer.
MOST_SECONDS = 120
# In the second epoch: the first is saved.
FAULT = {"at": "forward", "nth": 9, "do": "kill"}


@pytest.mark.slow
def test_spawned_processes_end_and_the_one_that_waits_says_which_was_killed(trainings, undisturbed_pair, tmp_path):
    folder, trace = tmp_path / "killed", tmp_path / "trace"
    command = [sys.executable, "-m", "tests.train.spawner", *trainings.options(folder), "--dist_backend", "gloo"]
    environment = {**os.environ, "FAULT": json.dumps(FAULT), "TRACE": str(trace), "PYTHONPATH": str(HERE.parents[1])}
    command += ["--ngpu", "2", "--multiprocessing_distributed", "true"]
    ended = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=900)
    *started, (killed, moment) = (line.split() for line in trace.read_text().splitlines())
    assert time.time() - float(moment) < MOST_SECONDS
    assert ended.returncode == 1
    sentence = rf"ERROR: rank 1 of 2 \(process {killed}\) was ended by SIGKILL.* The same command resumes"
    assert len(re.findall(sentence, ended.stderr)) == ended.stderr.count("ERROR") == 1, ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    assert len(started) == 2 and killed in [pid for pid, _ in started]
    assert not [pid for pid, _ in started if Path(f"/proc/{pid}").exists()]
    assert torch.load(folder / "checkpoint.pth", weights_only=True)["reporter"]["epoch"] == 1
    assert trainings.run(folder, num_processes=2) == 0, trainings.log(folder)
    assert trainings.outcome(folder) == trainings.outcome(undisturbed_pair)


@pytest.mark.slow
def test_of_processes_started_one_by_one_the_other_says_it(trainings, tmp_path):
    folder = tmp_path / "killed"
    assert trainings.run(folder, fault=FAULT, num_processes=2) == -9
    log = trainings.log(folder)
    assert log.count("ERROR: rank 1 of this training has ended, and rank 0 ends with it.") == log.count("ERROR") == 1
    assert "The same command resumes" in log and "Traceback" not in log


def exited(exit_code, signal_name=None, index=1):
    return ProcessExitedException(
        "process ended", error_index=index, error_pid=4711, exit_code=exit_code, signal_name=signal_name
    )


def test_ranks_are_counted_over_all_machines():
    said = status_after(exited(-9, "SIGKILL"), 4, 8)
    assert said.startswith("ERROR: rank 5 of 8 (process 4711) was ended by SIGKILL")
    # The killed process is on another machine.
    said = status_after(exited(PEER_LOST_STATUS, index=0), 4, 8)
    assert said.startswith("ERROR: a process of this training has ended, and rank 4 of 8")
    assert status_after(exited(1), 0, 2) == 1


def test_a_lost_connection_alone_is_taken_for_the_end_of_another(monkeypatch):
    monkeypatch.setattr(stopping, "PEER_LOST_GRACE_S", 0.0)
    for error in (RuntimeError(LOST), torch.distributed.DistBackendError("NCCL error: remote process exited")):
        sentence = "ERROR: another of the 3 processes of this training has ended, and rank 2 ends with it"
        with pytest.raises(SystemExit, match=sentence), ends_with_its_peers(2, 3):
            raise error
    with pytest.raises(RuntimeError, match="CUDA out of memory"), ends_with_its_peers(0, 2):
        raise RuntimeError("CUDA out of memory")


def test_a_spawned_process_leaves_the_word_to_the_one_that_spawned_it(monkeypatch):
    monkeypatch.setattr(stopping, "PEER_LOST_GRACE_S", 0.0)
    monkeypatch.setattr("multiprocessing.parent_process", object)
    with pytest.raises(SystemExit) as exit_, ends_with_its_peers(0, 2):
        raise RuntimeError(LOST)
    assert exit_.value.code == PEER_LOST_STATUS
