"""A folder that one program writes at a time."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_larm.files.locks import LOCK, locked

HOLD = """
import os, pathlib, sys, time
from espnet_larm.files.locks import locked
with locked(pathlib.Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    """Let another process, which has forked a third one, lock a folder."""
    holders = []

    def start(folder):
        command = [sys.executable, "-c", HOLD, str(folder)]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        holders.append(holder)
        assert holder.stdout.readline() == "held\n"
        return holder

    yield start
    for holder in holders:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


def test_a_second_process_is_refused_and_told_of_the_first(hold, tmp_path):
    holder = hold(tmp_path)
    said = rf"{re.escape(str(tmp_path))} is being written by process {holder.pid} on \S+ since 20\d\d-.*Wait for"
    for _ in range(2):
        with pytest.raises(BlockingIOError, match=said), locked(tmp_path):
            pass


def test_the_lock_of_a_killed_process_counts_no_longer(hold, tmp_path):
    holder = hold(tmp_path)
    # Its child, a loader's worker for example, still runs.
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / LOCK).read_text()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_programs_left_is_removed(tmp_path):
    (tmp_path / ".part1x").mkdir()
    (tmp_path / ".part1x/half").write_text("x")
    (tmp_path / ".text.part").write_text("x")
    (tmp_path / "text").write_text("kept")
    (tmp_path / ".staging").mkdir()
    with locked(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".staging", "text"]


PROGRAMS = {
    "recipe.format_audio": ["--in_dir", "in", "--output_dir"],
    "recipe.perturb_speed": ["--in_dir", "in", "--factors", "0.9", "--output_dir"],
    "recipe.filter_lengths": ["--in_dir", "in", "--output_dir"],
    "recipe.make_tokens": ["--text", "in", "--token_type", "char", "--output_dir"],
    "recipe.join_outputs": ["--input_dirs", "in", "--output_dir"],
    "recipe.text_lm.train": ["--text", "in", "--ngpu", "0", "--output_dir"],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_refuse_a_folder_in_use(hold, tmp_path, program):
    hold(tmp_path)
    with pytest.raises(BlockingIOError, match="is being written by process"):
        importlib.import_module(f"espnet_larm.{program}").main([*PROGRAMS[program], str(tmp_path)])


def test_a_training_refuses_a_folder_in_use(hold, tmp_path, larm_task):
    hold(tmp_path)
    with pytest.raises(SystemExit, match=r"^ERROR: .* is being written by process"):
        larm_task.main(cmd=["--output_dir", str(tmp_path), "--token_list", "in"])


@pytest.mark.slow
@pytest.mark.parametrize("program", ["slu_train", "st_train", "s2t_train", "enh_s2t_train"])
def test_trainings_of_other_tasks_refuse_a_folder_in_use_and_lock_their_own(hold, tmp_path, monkeypatch, program):
    from espnet_larm.cli import train

    module_name, _, class_name = train.PROGRAMS[program].partition(":")
    ran = []
    task = getattr(importlib.import_module(module_name), class_name)
    monkeypatch.setattr(task, "main", lambda args: ran.append((Path(args.output_dir) / LOCK).exists()))
    assert train.main([program, "--output_dir", str(tmp_path / "free")]) == 0 and ran == [True]
    hold(tmp_path)
    with pytest.raises(BlockingIOError, match="is being written by process"):
        train.main([program, "--output_dir", str(tmp_path)])
    assert ran == [True]


def test_the_lock_is_quick_to_give_back(tmp_path):
    for _ in range(50):
        with locked(tmp_path):
            time.sleep(0)
    assert not (tmp_path / LOCK).exists()
