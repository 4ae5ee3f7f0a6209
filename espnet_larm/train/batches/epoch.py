"""An epoch's batches on their way from the loader to ESPnet's loop.

ESPnet's loop takes a batch when it is done with the one before. Between the two, a training can stop here, batches
that were used before an interruption are skipped, and batches that changed no parameter are noted.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sized
from statistics import mean
from typing import Any, NamedTuple

import torch

from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.reporter import SubReporter

from espnet_larm.errors import OptionError
from espnet_larm.train.stopping import iter_shielded

logger = logging.getLogger(__name__)

Batch = tuple[list[str], dict[str, torch.Tensor]]


class Skipped(NamedTuple):
    """Batches that changed no parameter.

    Attributes:
        reason: Why, as a clause.
        utt_ids: Ids of their utterances.
    """

    reason: str
    utt_ids: list[str]


def describe_batches(iter_factory: Any, accum_grad: int, distributed_option: DistributedOption) -> str:
    """A sentence on the effective batch, the utterances of a step: it makes runs on other machines comparable.

    Args:
        iter_factory: ESPnet's factory; one without a list of batches (chunks) is described in words only.
        accum_grad: Batches of a step.
        distributed_option: ESPnet's option with the number of processes.
    """
    num_processes = distributed_option.dist_world_size if distributed_option.distributed else 1
    num_batches = _batches_of_an_epoch(iter_factory)
    if num_batches is None:
        return f"Effective batch: {num_processes} process(es) x accum_grad {accum_grad} x the iterator's batch"
    sizes = [len(batch) for batch in iter_factory.sampler.batches]
    return (
        f"Effective batch: {mean(sizes) * num_processes * accum_grad:.1f} utterances on average "
        f"(batches of {min(sizes)} to {max(sizes)} x {num_processes} process(es) x accum_grad {accum_grad}), "
        f"{num_batches // accum_grad} steps an epoch"
    )


def _batches_of_an_epoch(iter_factory: Any) -> int | None:
    """Batches that ESPnet's factory gives in an epoch; None for one without a list of batches (chunks)."""
    batches = getattr(getattr(iter_factory, "sampler", None), "batches", None)
    if not batches:
        return None
    most = iter_factory.num_iters_per_epoch
    return len(batches) if most is None else int(most)


def length_of(loader: Iterable[Batch]) -> int | None:
    """Batches of a loader; None for one without a length, which its `__len__` may tell by a TypeError."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


def check_steps(iter_factory: Any, accum_grad: int) -> None:
    """Refuse a training whose epochs have no step.

    Raises:
        OptionError: An epoch has fewer batches than a step takes.
    """
    num_batches = _batches_of_an_epoch(iter_factory)
    if accum_grad < 1:
        raise OptionError(f"accum_grad is {accum_grad}; allowed: 1 or more, the batches of a step.")
    if num_batches is not None and num_batches < accum_grad:
        num_all = len(iter_factory.sampler.batches)
        remedy = f"Set accum_grad to {num_batches} or less, or make batches smaller."
        if num_batches < min(accum_grad, num_all):
            remedy = f"Leave num_iters_per_epoch out, or set it to {accum_grad} or more."
        raise OptionError(
            f"accum_grad is {accum_grad}, but an epoch has {num_batches} batches (num_iters_per_epoch is "
            f"{iter_factory.num_iters_per_epoch}, the training set has {num_all}): no step would be made. {remedy}"
        )


class TrainingBatches:
    """The batches of one epoch of training.

    Attributes:
        num_taken: Batches taken from the loader, those skipped after an interruption included.
        num_given: Batches that ESPnet got.
        skipped: Batches left out of this epoch's updates because something was not finite.

    Args:
        loader: ESPnet's loader of the epoch.
        reporter: ESPnet's reporter, whose statistics tell whether a step was made.
        accum_grad: Batches of a step.
        between_steps: Called before each batch that follows a finished step; it may raise SystemExit.
        num_used: Batches that were trained on before an interruption.
        after_skipping: Called once the used batches are skipped.
    """

    def __init__(
        self,
        loader: Iterable[Batch],
        reporter: SubReporter,
        accum_grad: int,
        between_steps: Callable[[], None],
        num_used: int = 0,
        after_skipping: Callable[[], None] | None = None,
    ) -> None:
        self._loader = loader
        self._reporter = reporter
        self._accum_grad = accum_grad
        self._between_steps = between_steps
        self._num_used = num_used
        self._after_skipping = after_skipping
        self._step: list[list[str]] = []
        self.num_taken = num_used
        self.num_given = 0
        self.skipped: list[Skipped] = []

    def __len__(self) -> int:
        if not isinstance(self._loader, Sized):
            raise TypeError(f"{type(self._loader).__name__} has no length")
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        iterator = iter_shielded(self._loader)
        self._skip_used(iterator)
        while True:
            # Exactly once for each batch that ESPnet gets: with several processes, all of them must ask at once.
            if not self._step:
                self._between_steps()
            batch = self._next_finite(iterator)
            if batch is None:
                return
            self._step.append(batch[0])
            self.num_given += 1
            yield batch
            if len(self._step) == self._accum_grad:
                self._end_step()

    def _skip_used(self, iterator: Iterator[Batch]) -> None:
        # Loaded and thrown away: workers' random states go on as in a run without interruption.
        for _ in range(self._num_used):
            next(iterator)
        if self._after_skipping is not None:
            self._after_skipping()

    def _next_finite(self, iterator: Iterator[Batch]) -> Batch | None:
        """The next batch whose audio is finite: any other would spoil BatchNorm's statistics for good."""
        for utt_ids, batch in iterator:
            self.num_taken += 1
            bad = [utt_id for index, utt_id in enumerate(utt_ids) if not is_finite(batch, index)]
            if not bad:
                return utt_ids, batch
            self._skip(f"the input of {', '.join(bad)} is not finite", utt_ids)
        return None

    def _end_step(self) -> None:
        utt_ids = [utt_id for batch in self._step for utt_id in batch]
        if not self._step_was_made():
            losses = self._reporter.stats.get("loss", [])[-len(self._step) :]
            bad = [
                utt_id
                for batch, loss in zip(self._step, losses, strict=False)
                if not math.isfinite(loss.value)
                for utt_id in batch
            ]
            reason = f"the loss of {' '.join(bad)} is not finite" if bad else "the loss is finite, its gradient is not"
            self._skip(reason, utt_ids)
        self._step = []

    def _step_was_made(self) -> bool:
        """Whether ESPnet registered a finite gradient; with `no_forward_run` it registers nothing at all."""
        if "loss" not in self._reporter.stats:
            return True
        norms = self._reporter.stats.get("grad_norm")
        return norms is not None and math.isfinite(norms[-1].value)

    def _skip(self, reason: str, utt_ids: list[str]) -> None:
        self.skipped.append(Skipped(reason, utt_ids))
        # An error, because ESPnet silences warnings of all processes but the first.
        logger.error("Skipped, no parameter changed: %s. Utterances: %s", reason, " ".join(utt_ids))


def batches_to_validate(loader: Iterable[Batch], between_steps: Callable[[], None]) -> Iterator[Batch]:
    """The batches of a validation, between which the training can stop."""
    batches = iter_shielded(loader)
    while True:
        between_steps()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch


def is_finite(batch: dict[str, Any], index: int) -> bool:
    """Whether all floating-point inputs of an utterance of a batch are finite."""
    return all(
        bool(values[index].isfinite().all())
        for values in batch.values()
        if isinstance(values, torch.Tensor) and values.is_floating_point()
    )
