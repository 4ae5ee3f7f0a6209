"""Runs trainings as processes of their own without importing ESPnet (12 s) for each: imports once, then forks.

Reads a JSON line a training from stdin, {"argv", "log", "upstream", "num_processes", "fault", "records"}, and answers
each with its exit status (negative: the signal), the highest if there are several processes. With `records`, process N
appends to `<log>.read.N` a line with the ids of each batch that it trains on. A fault is one of

    {"at": "forward", "nth": 7, "do": "kill"}                        before the model's 7th batch, validation included
    {"at": "step", "nth": 3, "do": "kill"}                           before the optimiser's 3rd step
    {"at": "save", "file": "checkpoint.pth", "nth": 2, "do": "kill", "when": "before" | "half" | "after"}
    {"at": "move", "nth": 4, "do": "kill"}                           before the 4th rename
    {"at": "link", "file": "latest.pth", "nth": 1, "do": "kill"}     before ESPnet makes a link

It happens in the last process. `do` is kill (SIGKILL), term (SIGTERM to the process), term_group (to it and its
workers), full (the disk takes half of the file), nan (the loss of that forward) or move_lm (a frozen weight changes).
"""

import io
import json
import os
import pathlib
import resource
import signal
import sys
import time
import traceback


def act(what):
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif what == "move_lm":
        move_lm()
    elif what == "term_group":
        os.killpg(os.getpgid(0), signal.SIGTERM)
        # Time for workers to die of it, if they do.
        time.sleep(0.2)


def move_lm():
    import gc

    from espnet_larm.llm.backbone import Backbone

    for each in gc.get_objects():
        if isinstance(each, Backbone):
            each.model.model.norm.weight.data.mul_(1.01)


def is_of_training(optimizer):
    """Not one that the options are tried with, on a single number."""
    return any(parameter.numel() > 1 for group in optimizer.param_groups for parameter in group["params"])


def before_nth(function, nth, action, matches=lambda *_: True):
    """`function`, with `action` before its nth call that matches."""
    count = 0

    def counted(*arguments, **options):
        nonlocal count
        count += bool(matches(*arguments))
        if count == nth and matches(*arguments):
            changed = action(*arguments, **options)
            if changed is not None:
                return changed
        return function(*arguments, **options)

    return counted


def inject(fault):
    import torch

    from espnet2.asr.espnet_model import ESPnetASRModel

    nth, do = fault["nth"], fault["do"]
    if fault["at"] == "forward":
        forward = ESPnetASRModel.forward

        def on_forward(*arguments, **options):
            act(do)
            if do == "nan":
                loss, stats, weight = forward(*arguments, **options)
                stats["loss"] = stats["loss"] * float("nan")
                return loss * float("nan"), stats, weight
            return None

        ESPnetASRModel.forward = before_nth(forward, nth, on_forward)
    elif fault["at"] == "step":
        torch.optim.Adam.step = before_nth(torch.optim.Adam.step, nth, lambda *_: act(do), is_of_training)
    elif fault["at"] == "move":
        pathlib.Path.replace = before_nth(pathlib.Path.replace, nth, lambda *_: act(do))
    elif fault["at"] == "link":
        is_it = lambda link, *_: link.name == fault["file"]  # noqa: E731
        pathlib.Path.symlink_to = before_nth(pathlib.Path.symlink_to, nth, lambda *_: act(do), is_it)
    else:
        inject_into_save(torch, fault)


def inject_into_save(torch, fault):
    save = torch.save

    def on_save(states, path, *_):
        buffer = io.BytesIO()
        save(states, buffer)
        half = buffer.getvalue()[: len(buffer.getvalue()) // 2]
        if fault["do"] == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(half), resource.RLIM_INFINITY))
        elif fault["when"] == "half":
            pathlib.Path(path).write_bytes(half)
            act(fault["do"])
        elif fault["when"] == "after":
            save(states, path)
            act(fault["do"])
        else:
            act(fault["do"])

    torch.save = before_nth(save, fault["nth"], on_save, lambda _, path, *rest: path.name == fault["file"])


def record_batches(path):
    """Write down the utterances of each batch that ESPnet's loop trains on."""
    import torch

    from espnet2.train import trainer

    to_device = trainer.to_device

    def recorded(batch, *arguments):
        # Validation has no gradients.
        if torch.is_grad_enabled():
            with path.open("a") as file:
                file.write(" ".join(batch["utt_id"]) + "\n")
        return to_device(batch, *arguments)

    trainer.to_device = recorded


def train(job, rank):
    """The forked child: never returns."""
    status = 1
    try:
        os.setpgrp()
        log = os.open(job["log"] + (f".{rank}" if rank else ""), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if job["fault"] and rank == job["num_processes"] - 1:
            inject(job["fault"])
        if job["records"]:
            record_batches(pathlib.Path(f"{job['log']}.read.{rank}"))
        from espnet2.tasks.asr import ASRTask

        from espnet_larm.train.task import LarmASRTask

        (ASRTask if job["upstream"] else LarmASRTask).main(cmd=[*job["argv"], *processes(job, rank)])
        status = 0
    except SystemExit as exit_:
        # As Python itself does.
        status = exit_.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:  # noqa: BLE001 - as Python itself does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def processes(job, rank):
    """ESPnet's options for several processes that talk over gloo."""
    if job["num_processes"] == 1:
        return []
    store = f"{job['log']}.{os.getppid()}.{job['number']}"
    place = ["--dist_rank", str(rank), "--dist_world_size", str(job["num_processes"])]
    return [*place, "--dist_backend", "gloo", "--dist_init_method", f"file://{store}"]


def main():
    # ESPnet prints when it is imported.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    import espnet_larm.train.task  # noqa: F401

    torch.set_num_threads(1)
    for number, line in enumerate(sys.stdin):
        job = {**json.loads(line), "number": number}
        children = []
        for rank in range(job["num_processes"]):
            children.append(os.fork())
            if children[-1] == 0:
                train(job, rank)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        answers.write(f"{max(statuses, key=abs)}\n")
        answers.flush()


if __name__ == "__main__":
    main()
