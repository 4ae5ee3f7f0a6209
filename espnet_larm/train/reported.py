"""The values that a training reports, and those by which epochs can be compared.

ESPnet's models report every value of their class, None where this training has none: CTC alone has no `acc`. ESPnet's
validation turns None into NaN, draws empty pictures of it, and would choose the best epoch by it.
"""

import contextlib
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from espnet2.schedulers.abs_scheduler import AbsValEpochStepScheduler
from espnet2.torch_utils.device_funcs import to_device
from espnet2.train.reporter import SubReporter
from espnet2.train.trainer import TrainerOptions

from espnet_larm.errors import OptionError
from espnet_larm.train.batches.epoch import Batch
from espnet_larm.train.batches.frames import needed_frames_told
from espnet_larm.train.batches.short import LongEnough, fewest_of

logger = logging.getLogger(__name__)

Criterion = tuple[str, str, str]
Values = Callable[[str], Sequence[str]]

PHASES, MODES = ("train", "valid"), ("min", "max")
# ESPnet's `best_model_criterion` where no YAML sets it.
DEFAULT: tuple[Criterion, ...] = tuple(
    (phase, key, mode) for key, mode in (("loss", "min"), ("acc", "max")) for phase in PHASES
)
# Values that ESPnet's loop adds to the model's own in training.
LOOPS_OWN = re.compile(r"(iter|forward|backward|optim_step|train)_time|grad_norm|clip|loss_scale|optim\d+_lr\d+")


@contextlib.contextmanager
def only_numbers(model: torch.nn.Module) -> Iterator[None]:
    """Leave None out of the values that the model reports.

    Args:
        model: An ASR model, or what holds it for several processes.
    """
    with model.register_forward_hook(_drop_missing):
        yield


def _drop_missing(module: torch.nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG001
    if isinstance(output, dict):
        return {**output, "stats": _without_none(output["stats"])}
    loss, stats, weight = output
    return loss, _without_none(stats), weight


def _without_none(stats: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stats.items() if value is not None}


class ReportedValues:
    """Names of the values that a model reports, found with one batch of the development set.

    This does not change the training: ESPnet seeds all random numbers at the start of an epoch.

    Args:
        model: The model, on its device.
        build_loader: Builds a loader of batches.
        ngpu: Number of GPUs of this process.
    """

    def __init__(self, model: torch.nn.Module, build_loader: Callable[[], Iterable[Batch]], ngpu: int) -> None:
        self._model = model
        self._build_loader = build_loader
        self._device = "cuda" if ngpu > 0 else "cpu"
        self._found: dict[str, Sequence[str]] = {}

    def __call__(self, phase: str) -> Sequence[str]:
        """Names in the phase `train` or `valid`; none if there is no batch."""
        if phase not in self._found:
            self._found[phase] = self._ask(phase)
        return self._found[phase]

    @torch.no_grad()
    def _ask(self, phase: str) -> Sequence[str]:
        model = self._model.eval()
        # The model alone, not what is in it: no statistics of a BatchNorm move.
        model.training = phase == "train"
        long_enough = LongEnough(self._build_loader(), fewest_of(model))
        with only_numbers(model), needed_frames_told(model), long_enough.named():
            for utt_ids, batch in long_enough:
                output = model(**to_device({**batch, "utt_id": utt_ids}, self._device))
                return list(output["stats"] if isinstance(output, dict) else output[1])
        return []


def checked_criteria(options: TrainerOptions, schedulers: Iterable[Any], values: Values) -> list[Criterion]:
    """Criteria of the best epochs; every criterion must be a number in this training.

    Args:
        options: ESPnet's options.
        schedulers: Schedulers of the learning rates; some wait for a value to fall.
        values: Gives the names of the values that are reported in a phase.

    Returns:
        The option `best_model_criterion`; its default without the values that this training lacks.

    Raises:
        OptionError: A criterion names a value that is no number; the message lists those that are.
    """
    criteria: list[Criterion] = [(phase, key, mode) for phase, key, mode in options.best_model_criterion]
    if tuple(criteria) == DEFAULT:
        kept = [criterion for criterion in criteria if _is_there(criterion, values)]
        if len(kept) < len(criteria):
            logger.info(
                "best_model_criterion is ESPnet's default; this training compares epochs by what it has of it, %s.",
                " and ".join(f"{phase} {key}" for phase, key, _ in kept),
            )
        criteria = kept
    for criterion in criteria:
        _check("best_model_criterion", criterion, values)
    if options.patience is not None:
        _check("early_stopping_criterion", options.early_stopping_criterion, values)
    if any(isinstance(scheduler, AbsValEpochStepScheduler) for scheduler in schedulers):
        # The scheduler's own options say whether less is better.
        _check("val_scheduler_criterion", options.val_scheduler_criterion, values)
    return criteria


def check_numbers(reporter: SubReporter, options: TrainerOptions) -> None:
    """Refuse to compare an epoch by a value that was not a number in any of its batches.

    Args:
        reporter: ESPnet's reporter of a phase, at its end.
        options: ESPnet's options.

    Raises:
        OptionError: A value that decides is not a number.
    """
    criteria = [tuple(criterion) for criterion in options.best_model_criterion]
    criteria += [tuple(options.early_stopping_criterion)] if options.patience is not None else []
    for phase, key, *_ in criteria:
        values = reporter.stats.get(key, []) if phase == reporter.key else []
        if values and not any(math.isfinite(float(value.value)) for value in values):
            raise OptionError(
                f"{phase} {key}, by which epochs are compared, is not a number in any batch of epoch "
                f"{reporter.get_epoch()}. The last checkpoint is as it was; look for audio or options that make the "
                "model's outputs infinite (a lower optim_conf: lr, use_amp: false). The same command then resumes."
            )


def _check(option: str, criterion: Sequence[str], values: Values) -> None:
    phase, key, *mode = criterion
    got = f"{option} is [{', '.join(criterion)}]"
    if phase not in PHASES or not set(mode) <= set(MODES):
        raise OptionError(f"{got}; allowed: train or valid, the name of a value, min or max.")
    if not _is_there(criterion, values):
        raise OptionError(
            f"{got}, but {phase} {key} is never a number in this training; allowed of {phase}: "
            f"{', '.join(sorted(values(phase)))}."
        )


def _is_there(criterion: Sequence[str], values: Values) -> bool:
    phase, key, *_ = criterion
    # All models report their loss: no batch is needed to know that.
    if key == "loss" or (phase == "train" and LOOPS_OWN.fullmatch(key)):
        return True
    found = values(phase)
    return not found or key in found
