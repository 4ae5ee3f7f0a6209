"""SIGTERM in the process that trains, and in the one that waits for those that train."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from espnet_larm.train.stopping import StopRequest, iter_shielded, sigterm_goes_to_workers


def test_sigterm_is_noted_while_listening_and_the_handler_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    with stop.listen():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_made
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_listens_to_nothing_and_runs():
    ran = []

    def run():
        with StopRequest().listen():
            ran.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ran == [True]


def test_sigterm_is_blocked_only_while_a_loader_starts():
    class Loader:
        def __iter__(self):
            self.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            return iter([1])

    loader = Loader()
    assert list(iter_shielded(loader)) == [1]
    assert signal.SIGTERM in loader.blocked
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def sleep(is_awake):
    is_awake.set()
    time.sleep(20)


@pytest.mark.parametrize(("daemon", "expected"), [(False, "worker"), (True, "waiting process")])
def test_sigterm_reaches_training_processes_or_else_ends_the_one_that_waits(daemon, expected):
    context = multiprocessing.get_context("fork")
    pipe, far = context.Pipe()

    def wait_for_worker():
        is_awake = context.Event()
        worker = context.Process(target=sleep, args=(is_awake,), daemon=daemon)
        with sigterm_goes_to_workers():
            worker.start()
            # Python forgets signals that come while it forks; ESPnet spawns.
            is_awake.wait()
            far.send(worker.pid)
            worker.join()
            far.send(worker.exitcode)

    waiting = context.Process(target=wait_for_worker)
    waiting.start()
    worker_id = pipe.recv()
    os.kill(waiting.pid, signal.SIGTERM)
    if expected == "worker":
        assert pipe.recv() == -signal.SIGTERM
        waiting.join()
        assert waiting.exitcode == 0
    else:
        waiting.join()
        assert waiting.exitcode == -signal.SIGTERM
        os.kill(worker_id, signal.SIGKILL)


FAILING = """
import torch
from espnet_larm.train.stopping import iter_shielded

class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        if index == 2:
            raise FileNotFoundError("no audio")
        return index

# The traceback holds the iterator, so that its own clean-up does not come before Python ends its children.
for batch in iter_shielded(torch.utils.data.DataLoader(Broken(), batch_size=1, num_workers=1)):
    held = batch
"""


def test_a_training_whose_audio_cannot_be_read_ends_and_does_not_wait_for_workers_that_no_sigterm_ends():
    done = subprocess.run([sys.executable, "-c", FAILING], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "FileNotFoundError" in done.stderr
