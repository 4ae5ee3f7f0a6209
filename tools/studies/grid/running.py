"""Runs the trainings of a grid through a recipe, several at once, and resumes what was interrupted.

A run is done when its recipe ended with status 0 after training, decoding and scoring; `grid.json` in its folder says
so. One that was interrupted is given to the recipe again, which resumes its training.
"""

import contextlib
import datetime as dt
import fcntl
import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import yaml

from espnet_larm.origin import commit, cpu_model
from studies.grid.plan import Plan, Run, runs_of

POLL_S = 0.5
LOCK_PATIENCE_S = 10.0
STATE = "grid.json"
LOG = "grid.log"


class Recipe(NamedTuple):
    """How runs are started.

    Attributes:
        script: run.sh of a recipe.
        options: For run.sh, beyond those that a run sets.
    """

    script: Path
    options: tuple[str, ...]


class Outcome(NamedTuple):
    """What an attempt at a run came to.

    Attributes:
        run: Which.
        status: Of the recipe, 0 when all was well.
        seconds: Of this attempt.
    """

    run: Run
    status: int
    seconds: float


def write_configs(plan: Plan, exp_dir: Path) -> None:
    """One YAML a row, in `conf/`.

    Raises:
        ValueError: A row was begun with another configuration.
    """
    folder = exp_dir / "conf"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {folder / f"{row.name}.yaml": yaml.safe_dump(row.config, sort_keys=False) for row in plan.rows}
    # Those that are as they were are left alone: a recipe may be reading them.
    changed = {
        path: text for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
    for row, path in zip(plan.rows, texts, strict=True):
        names = [Run(row.name, seed).name for seed in row.seeds]
        # A first attempt that has not ended yet has only its log.
        begun = [name for name in names if (exp_dir / name / STATE).is_file() or (exp_dir / name / LOG).is_file()]
        if begun and path in changed and path.is_file():
            raise ValueError(
                f"{exp_dir / begun[0]} was begun with another configuration than the plan now has for {row.name}; "
                f"remove {', '.join(begun)} in {exp_dir}, or name another --exp_dir."
            )
    for path, text in changed.items():
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)


def is_done(folder: Path) -> bool:
    """Whether a run's last attempt ended well."""
    found = attempts(folder)
    return bool(found) and found[-1]["status"] == 0


def attempts(folder: Path) -> list[dict[str, Any]]:
    """What is recorded of a run's attempts, oldest first."""
    path = folder / STATE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def run_grid(plan: Plan, exp_dir: Path, recipe: Recipe, num_jobs: int) -> Generator[Outcome, None, None]:
    """Run what is not done; a run that fails does not stop the others.

    Args:
        plan: The grid, its configurations written.
        exp_dir: A folder a run.
        recipe: How.
        num_jobs: Runs at once; each gets an equal share of the cores.

    Yields:
        Each attempt as it ends.

    Raises:
        ValueError: A run is still at work, started by another grid.
        KeyboardInterrupt: By SIGINT or SIGTERM, after the running ones have saved and ended.
    """
    waiting = deque(run for run in runs_of(plan) if not is_done(exp_dir / run.name))
    running: list[_Attempt] = []
    with _terminated_as_interrupted():
        try:
            while waiting or running:
                while waiting and len(running) < num_jobs:
                    running.append(_Attempt(waiting.popleft(), exp_dir, recipe, num_jobs))
                time.sleep(POLL_S)
                for attempt in [attempt for attempt in running if attempt.process.poll() is not None]:
                    running.remove(attempt)
                    yield attempt.finish()
        finally:
            for attempt in running:
                attempt.process.terminate()
            for attempt in running:
                attempt.process.wait()
                attempt.finish()


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

    def finish(self) -> Outcome:
        """Record an attempt that has ended."""
        seconds = (dt.datetime.now(dt.UTC) - self.started).total_seconds()
        record = {
            "started": f"{self.started:%Y-%m-%d %H:%M} UTC",
            "seconds": round(seconds, 1),
            "status": self.process.returncode,
            **self.stamp,
        }
        part = self.folder / f".{STATE}.part"
        part.write_text(json.dumps([*attempts(self.folder), record], indent=2) + "\n", encoding="utf-8")
        part.replace(self.folder / STATE)
        return Outcome(self.run, self.process.returncode, seconds)


def takes_lock(log: BinaryIO) -> bool:
    """Whether nobody else holds it, or the file system has no locks."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


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
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Attempts that did not end well."""
    return [outcome for outcome in outcomes if outcome.status != 0]
