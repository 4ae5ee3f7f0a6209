"""State of a training beside ESPnet's loop: its folder, a stop request and the epoch in progress."""

import argparse
import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from espnet2.train.reporter import Reporter, SubReporter
from espnet2.train.trainer import TrainerOptions

from espnet_larm.files.atomic import save_synced, write_text
from espnet_larm.files.checkpoint import CHECKPOINT, INTERRUPTED
from espnet_larm.process import give_memory_back
from espnet_larm.train.batches.epoch import Batch, TrainingBatches, length_of
from espnet_larm.train.batches.progress import Progress
from espnet_larm.train.checkpoints import (
    capture_progress,
    newest,
    read_progress,
    read_states,
    repair,
    restore_random,
    restore_statistics,
)
from espnet_larm.train.curves import draw_curves
from espnet_larm.train.journal import JOURNAL, Journal
from espnet_larm.train.learning import FrozenWeights
from espnet_larm.train.staging import CONFIG, Staging, check_room, need_of
from espnet_larm.train.stopping import REQUEUE_STATUS, StopRequest

logger = logging.getLogger(__name__)

# Steps on a CPU after which memory is given back: oneDNN keeps small blocks for every shape of bfloat16, and what is
# free lies between them. The training of an LM of 270 M parameters grew by 6 GB an hour without it.
STEPS_BETWEEN_GIVING_BACK = 20


class Running(NamedTuple):
    """The objects that ESPnet's loop trains with."""

    model: torch.nn.Module
    optimizers: Sequence[Any]
    schedulers: Sequence[Any]
    scaler: Any


@dataclasses.dataclass
class RecordedOptions(TrainerOptions):
    """ESPnet's options of its loop, and all options of the training, also as config.yaml records them."""

    config: str = ""
    args: argparse.Namespace = dataclasses.field(default_factory=argparse.Namespace)


class Session:
    """A training in one of its processes.

    Attributes:
        staging: The folder in which ESPnet saves.
        stop: Tells whether a SIGTERM has come.
        options: ESPnet's options, with the experiment's folder.

    Args:
        options: See above.
        distributed: Whether there are other processes.
    """

    def __init__(self, options: TrainerOptions, distributed: bool) -> None:
        self.staging = Staging(Path(options.output_dir))
        self.stop = StopRequest()
        self.options = options
        self._distributed = distributed
        self._rank = torch.distributed.get_rank() if distributed else 0
        self._num_processes = torch.distributed.get_world_size() if distributed else 1
        self._journal: Journal | None = None
        self._running: Running | None = None
        self._frozen: FrozenWeights | None = None
        self._reporter: SubReporter | None = None
        self._batches: TrainingBatches | None = None
        self._progress: Progress | None = None
        self._is_trained = False
        self._num_steps = 0
        self._resumed: dict[str, Any] | None = None

    def open(self) -> None:
        """Prepare the folder, with the newest undamaged checkpoint where ESPnet looks for it.

        Raises:
            ValueError: Every checkpoint is damaged.
        """
        if self._rank == 0:
            output_dir, chosen = self.staging.output_dir, None
            if self.options.resume:
                self.staging.adopt()
                chosen = newest(output_dir, self._num_processes)
            else:
                (output_dir / INTERRUPTED).unlink(missing_ok=True)
            # Without a checkpoint, the hours and commits of an earlier training in the folder do not count.
            self._journal = Journal(output_dir / JOURNAL, chosen is not None, self._num_processes)
            self.staging.reset(chosen.epoch if chosen else 0)
            if chosen:
                (self.staging.folder / CHECKPOINT).symlink_to(f"../{chosen.path.name}")
        self._wait_for_all()

    def resume(self, checkpoint: Path, reporter: Reporter) -> None:
        """Repair the files beside a loaded checkpoint, take its epoch in progress, and remove the link to it.

        Args:
            checkpoint: The link to the checkpoint in the staging folder.
            reporter: The loaded reporter; epochs whose parameters are lost are removed from it.
        """
        epoch = read_progress(checkpoint).epoch
        logger.info("%s is %s, after %d epochs.", checkpoint, checkpoint.resolve().name, epoch)
        started = read_states(checkpoint).get("epoch_in_progress")
        self._resumed = started["ranks"][self._rank] if started else None
        if self._rank == 0:
            repair(self.staging, reporter, self.options.best_model_criterion, max(self._num_best()))
        if self._distributed:
            history = [reporter.state_dict()]
            torch.distributed.broadcast_object_list(history, src=0)
            reporter.load_state_dict(history[0])
        if self._rank == 0:
            # ESPnet saves under this name next, and would write through the link. All processes have loaded it by now.
            checkpoint.unlink()

    def start_epoch(self, running: Running, reporter: SubReporter) -> None:
        """Publish the previous epoch, record the options at the first, and check that this one will fit on the disk.

        Raises:
            OSError: It will not fit.
        """
        is_first = self._running is None
        self._running, self._reporter, self._is_trained = running, reporter, False
        if self._rank == 0:
            if is_first and isinstance(self.options, RecordedOptions):
                write_text(self.staging.output_dir / CONFIG, self.options.config)
            self.staging.publish()
            self._draw()
        if self._journal is not None:
            self._journal.start_epoch(reporter.get_epoch(), running.model)
        if self._frozen is None:
            # Not earlier: a checkpoint is loaded by now.
            self._frozen = FrozenWeights(running.model)
        self.check_room()
        for optimizer in running.optimizers:
            # ESPnet leaves the gradients of an incomplete step at an epoch's end, which a resumed run would not have.
            optimizer.zero_grad()

    def start_validation(self) -> None:
        """Note that all batches of the epoch are trained on, and check the frozen weights.

        Raises:
            RuntimeError: A frozen weight has changed.
        """
        self._is_trained = True
        assert self._running is not None and self._frozen is not None
        self._frozen.check(self._running.model)

    def check_room(self) -> None:
        """Check that this epoch fits on the disk.

        Raises:
            OSError: It does not fit.
        """
        if self._rank == 0 and self._running is not None:
            num_averages = len(self.options.best_model_criterion) * sum(num > 1 for num in self._num_best())
            need = need_of(self._running.model, self._running.optimizers, num_averages)
            check_room(self.staging.output_dir, need)

    def batches(self, loader: Iterable[Batch]) -> Iterable[Batch]:
        """The batches left in the epoch: all, the rest after an interruption, or none before its validation."""
        assert self._reporter is not None
        resumed, self._resumed = self._resumed, None
        rest = (resumed["num_batches"], lambda: restore_random(resumed)) if resumed else ()
        self._progress = Progress(
            self._reporter,
            self.options.accum_grad,
            length_of(loader),
            resumed["num_batches"] if resumed else 0,
            self.options.max_epoch - self._reporter.get_epoch(),
        )
        self._batches = TrainingBatches(loader, self._reporter, self.options.accum_grad, self._between_steps, *rest)
        if resumed is None:
            return self._batches
        restore_statistics(self._reporter, resumed)
        if resumed["is_trained"]:
            logger.info("The epoch's training was done before the interruption; its validation follows.")
            return []
        logger.info("The epoch goes on after %d batches, which are loaded again and skipped.", resumed["num_batches"])
        return self._batches

    def is_at_first_batch(self) -> bool:
        """Whether the epoch has had no batch before the one in progress."""
        return self._batches is None or self._batches.num_given <= 1

    def report_skipped(self) -> None:
        """Warn of the number of batches that were left out of the epoch."""
        if self._batches is not None and self._batches.skipped:
            logger.warning(
                "%d of this epoch's steps or batches were skipped because something was not finite; "
                "each is named above.",
                len(self._batches.skipped),
            )

    def why_no_step(self) -> str:
        """A sentence on an epoch in which no step was made."""
        assert self._reporter is not None and self._batches is not None
        return (
            f"No step was made in epoch {self._reporter.get_epoch()}: it had {self._batches.num_given} usable batches "
            f"(a step takes accum_grad {self.options.accum_grad}), and {len(self._batches.skipped)} batches or steps "
            "were skipped; the log names each with its utterances and the reason. The last checkpoint is as it was. "
            "Mend the data or the options (a lower optim_conf: lr, another use_amp, a smaller accum_grad); the same "
            "command then resumes."
        )

    def _between_steps(self) -> None:
        assert self._running is not None
        if self._batches is not None and self._progress is not None:
            self._progress.tell(self._batches.num_given // self.options.accum_grad)
        self._num_steps += 1
        is_on_cpu = next(self._running.model.parameters()).device.type == "cpu"
        if is_on_cpu and self._num_steps % STEPS_BETWEEN_GIVING_BACK == 0:
            give_memory_back()
        self.end_if_asked()

    def end_if_asked(self) -> None:
        """Save the epoch in progress and end, if any of the processes has got a SIGTERM.

        Raises:
            SystemExit: A SIGTERM has come; the status is REQUEUE_STATUS.
        """
        if not self._is_asked_anywhere():
            return
        logger.warning("SIGTERM: saving, then ending with status %d; the same command resumes.", REQUEUE_STATUS)
        try:
            self._save_progress()
        except (OSError, RuntimeError):
            # What torch.save raises when the disk is full. The checkpoint is untouched, and time is short.
            logger.exception("The epoch in progress could not be saved and will start again from its checkpoint.")
        raise SystemExit(REQUEUE_STATUS)

    def close(self) -> None:
        """Publish the last epoch and the averages."""
        if self._rank == 0:
            self.staging.close()
            self._draw()
        if self._journal is not None:
            self._journal.end_epoch()

    def break_off(self) -> None:
        """Record the time spent on an unfinished epoch, if there is one."""
        if self._journal is not None:
            self._journal.break_off()

    def _draw(self) -> None:
        checkpoint = self.staging.output_dir / CHECKPOINT
        if self.options.use_matplotlib and checkpoint.exists():
            draw_curves(read_states(checkpoint)["reporter"]["stats"], checkpoint.parent / "images/curves.png")

    def _is_asked_anywhere(self) -> bool:
        if not self._distributed:
            return self.stop.is_made
        asked = torch.tensor(float(self.stop.is_made), device=self._device())
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return bool(asked)

    def _save_progress(self) -> None:
        assert self._running is not None and self._reporter is not None and self._batches is not None
        if self._batches.num_given == 0:
            # Nothing is new since the start of this process.
            return
        captured = capture_progress(self._reporter, self._batches.num_taken, self._is_trained)
        ranks = [captured]
        if self._distributed:
            ranks = [{}] * self._num_processes
            torch.distributed.all_gather_object(ranks, captured)
        if self._rank == 0:
            model, optimizers, schedulers, scaler = self._running
            states = {
                "model": getattr(model, "module", model).state_dict(),
                "reporter": self._finished_epochs(self._reporter.get_epoch() - 1),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "schedulers": [None if scheduler is None else scheduler.state_dict() for scheduler in schedulers],
                "scaler": None if scaler is None else scaler.state_dict(),
                "epoch_in_progress": {"ranks": ranks},
            }
            save_synced(states, self.staging.output_dir / INTERRUPTED, self.staging.folder)
        # One process that ends first would have the others ended before the file is there.
        self._wait_for_all()

    def _finished_epochs(self, epoch: int) -> dict[str, Any]:
        """ESPnet's statistics of earlier epochs, which its loop hides and its checkpoint holds."""
        if epoch == 0:
            return {"stats": {}, "epoch": 0}
        return read_states(self.staging.output_dir / CHECKPOINT)["reporter"]

    def _num_best(self) -> list[int]:
        num_best = self.options.keep_nbest_models
        return [num_best] if isinstance(num_best, int) else list(num_best) or [1]

    def _wait_for_all(self) -> None:
        if self._distributed:
            torch.distributed.barrier()

    def _device(self) -> str:
        return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
