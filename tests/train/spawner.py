"""A training of two processes that ESPnet spawns as it does for two GPUs, here on the CPU; one may be killed.

Takes the training's options. The environment names the fault of the last process (forker.py) and its trace: a file for
the ids of processes, of which the one that is killed writes the last line.
"""

import json
import os
import time
from pathlib import Path

import torch

from espnet_larm.train import task
from tests.train.forker import inject


def note(pid):
    with Path(os.environ["TRACE"]).open("a") as file:
        file.write(f"{pid} {time.time()}\n")


class OnCpu(task.LarmASRTask):
    """A task whose processes find no GPU."""

    @classmethod
    def main_worker(cls, args):
        torch.set_num_threads(1)
        args.ngpu, args.local_rank = 0, None
        note(os.getpid())
        if args.dist_rank == args.dist_world_size - 1:
            inject(json.loads(os.environ["FAULT"]))
            kill = os.kill
            os.kill = lambda *given: note(given[0]) or kill(*given)
        super().main_worker(args)


if __name__ == "__main__":
    task.check_gpus = lambda ngpu: None
    OnCpu.main()
