"""Runs the trainings of a grid through a recipe, several at once, and resumes those that were interrupted.

A run is done when its recipe ended with status 0 after training, decoding and scoring; `grid.json` in its folder says
so. The recipe gets an interrupted run again, and resumes its training.
"""

import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import yaml

from espnet_larm.origin import commit, cpu_model
from studies.grid.plan import Plan, Run, runs_of
from studies.reports import write_text
from studies.runs import takes_lock, work_through

POLL_S = 0.1
LOCK_PATIENCE_S = 10.0
STATE = "grid.json"
LOG = "grid.log"


class Recipe(NamedTuple):
    """A recipe that trains, decodes and scores a run.

    Attributes:
        script: run.sh of the recipe.
        options: Options for run.sh, beyond those that a run sets.
    """

    script: Path
    options: tuple[str, ...]


class Outcome(NamedTuple):
    """Outcome of an attempt at a run.

    Attributes:
        run: The run.
        status: Exit status of the recipe, 0 when all was well.
        seconds: Duration of this attempt.
    """

    run: Run
    status: int
    seconds: float


def write_configs(plan: Plan, exp_dir: Path) -> None:
    """Write a YAML file a row into `conf/`; files that need no change are left alone, since a recipe may read them.

    Raises:
        ValueError: A row was begun with another configuration.
    """
    changed = {}
    for row in plan.rows:
        path, text = exp_dir / "conf" / f"{row.name}.yaml", yaml.safe_dump(row.config, sort_keys=False)
        if not path.is_file():
            changed[path] = text
        elif path.read_text(encoding="utf-8") != text:
            names = [Run(row.name, seed).name for seed in row.seeds]
            # A first attempt that has not ended yet has only its log.
            begun = [name for name in names if any((exp_dir / name / kept).is_file() for kept in (STATE, LOG))]
            if begun:
                raise ValueError(
                    f"{exp_dir / begun[0]} was begun with another configuration than the plan now has for {row.name}; "
                    f"remove {', '.join(begun)} in {exp_dir}, or name another --exp_dir."
                )
            changed[path] = text
    for path, text in changed.items():
        write_text(path, text)


def is_done(folder: Path) -> bool:
    """Whether a run's last attempt ended well."""
    found = attempts(folder)
    return bool(found) and found[-1]["status"] == 0


def attempts(folder: Path) -> list[dict[str, Any]]:
    """Records of a run's attempts, oldest first."""
    path = folder / STATE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def run_grid(plan: Plan, exp_dir: Path, recipe: Recipe, num_jobs: int) -> Generator[Outcome, None, None]:
    """Run what is not done; a run that fails does not stop the others.

    Args:
        plan: The grid, its configurations written.
        exp_dir: Folder of the runs' folders.
        recipe: Recipe that does a run.
        num_jobs: Runs at once; each gets an equal part of the cores.

    Yields:
        Each attempt as it ends.

    Raises:
        ValueError: A run is still at work, started by another grid.
        KeyboardInterrupt: SIGINT or SIGTERM came; the runs at work have saved and ended.
    """
    waiting = [run for run in runs_of(plan) if not is_done(exp_dir / run.name)]
    with _terminated_as_interrupted():
        yield from work_through(waiting, lambda run: _Attempt(run, exp_dir, recipe, num_jobs), num_jobs)


class _Attempt:
    """A recipe at work on a run."""

    def __init__(self, run: Run, exp_dir: Path, recipe: Recipe, num_jobs: int) -> None:
        self.run = run
        self.folder = exp_dir / run.name
        # Asked anew for each run: the repository may have moved on since the grid was started.
        self.stamp = {"commit": commit(), "machine": machine()}
        self.started = dt.datetime.now(dt.UTC)
        self.folder.mkdir(parents=True, exist_ok=True)
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, _num_cores() // num_jobs))
        command = [
            *(str(recipe.script), "--stage", "train", "--stop_stage", "score"),
            *("--asr_config", str(exp_dir / "conf" / f"{run.row}.yaml"), "--asr_exp", str(self.folder)),
            *("--asr_args", f"--seed {run.seed}", *recipe.options),
        ]
        with (self.folder / LOG).open("ab") as log:
            self._lock(log)
            # A session of its own: a Ctrl-C comes once, passed on by run_grid, and not from the terminal as well.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": threads},
                start_new_session=True,
            )
        self.stamp["threads"] = threads

    def _lock(self, log: BinaryIO) -> None:
        """Hold the log as long as any process of the recipe writes into it, also beyond a kill of the grid."""
        # A recipe that was told to end may leave a process behind for a moment.
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while not takes_lock(log):
            if time.monotonic() > deadline:
                raise ValueError(
                    f"{self.run.name} is still at work: a process holds {self.folder / LOG}, which `fuser` names; "
                    "wait for it or end it, then call the grid again."
                )
            time.sleep(POLL_S)

    def is_over(self) -> bool:
        """Whether the recipe has ended."""
        return self.process.poll() is not None

    def stop(self) -> None:
        """Tell the recipe to save and end."""
        self.process.terminate()

    def finish(self) -> Outcome:
        """Wait for the recipe's end, and record the attempt."""
        status = self.process.wait()
        seconds = (dt.datetime.now(dt.UTC) - self.started).total_seconds()
        record = {
            "started": f"{self.started:%Y-%m-%d %H:%M} UTC",
            "seconds": round(seconds, 1),
            "status": status,
            **self.stamp,
        }
        write_text(self.folder / STATE, json.dumps([*attempts(self.folder), record], indent=2) + "\n")
        return Outcome(self.run, status, seconds)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A SIGTERM ends the grid as a Ctrl-C does: the runs are told, and what they have saved stays."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def machine() -> str:
    """The processor, and GPUs that a run may use."""
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([cpu_model(), *(f"{name} visible" for name in names)])


def _num_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Attempts that did not end well."""
    return [outcome for outcome in outcomes if outcome.status != 0]
