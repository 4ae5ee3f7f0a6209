"""ESPnet's trainer, made to survive kills, signals, damaged files, bad batches and full disks.

ESPnet's loop runs unchanged, in a staging folder (`staging.py`) whose disk has room. Around it: whole checkpoints and
the one before, `--resume true` from the newest that is whole (`checkpoints.py`), SIGTERM between two steps
(`stopping.py`), batches that are not finite, too short or without room for CTC (`batches/`), frozen weights that stay
as they are (`learning.py`), values that are numbers (`reported.py`), a record of the time spent (`journal.py`).
Departures from ESPnet: gradients of an incomplete `accum_grad` step are dropped at the end of an epoch instead of being
added to the next one's, so that a resumed run equals an undisturbed one; the statistics of an epoch whose training
resumes in its middle are those of all its batches.
"""

import argparse
import dataclasses
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.reporter import Reporter, SubReporter
from espnet2.train.trainer import Trainer, TrainerOptions
from espnet2.utils.types import str2bool

from espnet_larm.errors import OptionError
from espnet_larm.train.batches.epoch import Batch, batches_to_validate, check_steps, describe_batches
from espnet_larm.train.batches.frames import CtcRoom, needed_frames_told, retention_logged
from espnet_larm.train.batches.short import LongEnough, fewest_of
from espnet_larm.train.learning import format_parts, learning_parts
from espnet_larm.train.record import record_of, take_config_back
from espnet_larm.train.refusals import traced_to_first_batch
from espnet_larm.train.reported import ReportedValues, check_numbers, checked_criteria, only_numbers
from espnet_larm.train.session import RecordedOptions, Running, Session
from espnet_larm.train.stopping import ends_with_its_peers

logger = logging.getLogger(__name__)


class LarmTrainer(Trainer):
    """ESPnet's trainer around which a `Session` is held. Like it, a namespace of class methods.

    Attributes:
        session: The training in progress, of the subclass that `run` makes for it; None elsewhere.
    """

    session: ClassVar[Session | None] = None

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add our options of training."""
        parser.add_argument(
            "--deterministic",
            type=str2bool,
            default=False,
            help="Only operations that give the same bits in every run (default: false); slower on a GPU, with the CTC "
            "loss on the CPU",
        )

    @classmethod
    def build_options(cls, args: argparse.Namespace) -> TrainerOptions:
        """ESPnet's options, and what config.yaml will hold; `put_config_aside` has changed the folder until now."""
        take_config_back(args)
        return RecordedOptions(**vars(super().build_options(args)), config=record_of(args), args=args)

    @classmethod
    def run(
        cls,
        model: torch.nn.Module,
        schedulers: Sequence[Any],
        train_iter_factory: Any,
        valid_iter_factory: Any,
        trainer_options: TrainerOptions,
        distributed_option: DistributedOption,
        **others: Any,
    ) -> None:
        """Train as ESPnet does, with whole files in the experiment's folder at every instant.

        Raises:
            SystemExit: A SIGTERM has come; the status is REQUEUE_STATUS. Or another process of the training is gone.
            OSError: The disk is full. The checkpoint is as it was.
            RuntimeError: A frozen weight has changed.
            ValueError: `--resume true`, and every checkpoint is damaged.
            OptionError: An epoch would have no step, or had none; or the value that shall decide which epoch is best is
                never a number in this training.
        """
        check_steps(train_iter_factory, trainer_options.accum_grad)
        logger.info(describe_batches(train_iter_factory, trainer_options.accum_grad, distributed_option))
        logger.info("What learns:\n%s", format_parts(learning_parts(model)))
        values = ReportedValues(model, lambda: valid_iter_factory.build_iter(1), trainer_options.ngpu)
        with traced_to_first_batch(_args_of(trainer_options)):
            criteria = checked_criteria(trainer_options, schedulers, values)
        trainer_options = dataclasses.replace(trainer_options, best_model_criterion=criteria)
        session = Session(trainer_options, distributed_option.distributed)
        rank, num_processes = distributed_option.dist_rank or 0, distributed_option.dist_world_size or 1
        with session.stop.listen(), ends_with_its_peers(rank, num_processes):
            session.open()
            # ESPnet calls methods of the class, and hands no object of ours on to them.
            holder: Any = type(cls.__name__, (cls,), {"session": session})
            try:
                super(LarmTrainer, holder).run(
                    model=model,
                    schedulers=schedulers,
                    train_iter_factory=train_iter_factory,
                    valid_iter_factory=valid_iter_factory,
                    trainer_options=dataclasses.replace(trainer_options, output_dir=session.staging.folder),
                    distributed_option=distributed_option,
                    **others,
                )
            except (OSError, RuntimeError) as error:
                session.staging.explain(error)
                raise
            else:
                session.close()
            finally:
                session.break_off()

    @classmethod
    def resume(cls, checkpoint: str | Path, model: torch.nn.Module, reporter: Reporter, **others: Any) -> None:
        """Load a checkpoint as ESPnet does, and what ours holds beyond ESPnet's.

        Raises:
            OptionError: Its names or shapes are not those of this training.
        """
        try:
            super().resume(checkpoint=checkpoint, model=model, reporter=reporter, **others)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(
                f"--resume true: {Path(checkpoint).resolve()} is not a checkpoint of this training "
                f"({' '.join(str(error).split())[:300]}). Put the training's own there, or train in another folder."
            ) from error
        if cls.session is not None:
            cls.session.resume(Path(checkpoint), reporter)

    @classmethod
    def train_one_epoch(
        cls,
        model: torch.nn.Module,
        iterator: Iterable[Batch],
        optimizers: Sequence[torch.optim.Optimizer],
        schedulers: Sequence[Any],
        scaler: Any,
        reporter: SubReporter,
        **others: Any,
    ) -> bool:
        """Train an epoch, or the rest of an interrupted one.

        Returns:
            False: ESPnet would end a training without a step as if it had learned.

        Raises:
            OptionError: No step of the epoch was made, or a part fails at the first batch.
            ValueError: The encoder refused an utterance as too short, and had not told its bound.
        """
        session, long_enough = cls._running_session(), LongEnough(iterator, fewest_of(model))
        session.start_epoch(Running(model, optimizers, schedulers, scaler), reporter)
        with (
            traced_to_first_batch(_args_of(session.options), session.is_at_first_batch),
            long_enough.named(),
            CtcRoom(long_enough.utt_ids).watched(model),
            needed_frames_told(model),
            retention_logged(model),
        ):
            rest_is_invalid = super().train_one_epoch(
                model=model,
                iterator=session.batches(long_enough),
                optimizers=optimizers,
                schedulers=schedulers,
                scaler=scaler,
                reporter=reporter,
                **others,
            )
        session.report_skipped()
        long_enough.report()
        if rest_is_invalid and "grad_norm" not in reporter.stats:
            raise OptionError(session.why_no_step())
        return False

    @classmethod
    def validate_one_epoch(
        cls, model: torch.nn.Module, iterator: Iterable[Batch], reporter: SubReporter, **others: Any
    ) -> None:
        """Validate, then check that the save that follows fits on the disk.

        Raises:
            OSError: The save does not fit.
            OptionError: A value that decides which epoch is best is not a number.
            RuntimeError: The epoch's training has changed a frozen weight.
            ValueError: The encoder refused an utterance as too short, and had not told its bound.
        """
        session, long_enough = cls._running_session(), LongEnough(iterator, fewest_of(model))
        session.start_validation()
        with (
            long_enough.named(),
            CtcRoom(long_enough.utt_ids).watched(model),
            needed_frames_told(model),
            only_numbers(model),
        ):
            super().validate_one_epoch(
                model=model,
                iterator=batches_to_validate(long_enough, session.end_if_asked),
                reporter=reporter,
                **others,
            )
        check_numbers(reporter, session.options)
        session.check_room()

    @classmethod
    def plot_attention(cls, model: torch.nn.Module, iterator: Iterable[Batch], **others: Any) -> None:
        """Draw the attention weights of utterances that are long enough."""
        long_enough = LongEnough(iterator, fewest_of(model))
        with long_enough.named():
            super().plot_attention(model=model, iterator=long_enough, **others)

    @classmethod
    def _running_session(cls) -> Session:
        assert cls.session is not None, "run() opens it"
        return cls.session


def _args_of(options: TrainerOptions) -> argparse.Namespace:
    return options.args if isinstance(options, RecordedOptions) else argparse.Namespace()


class CTCLossOnCPU(torch.nn.CTCLoss):
    """torch's CTC loss, computed on the CPU: CUDA sums its gradient in an order that changes."""

    def forward(
        self,
        log_probs: torch.Tensor,
        targets: torch.Tensor,
        input_lengths: torch.Tensor,
        target_lengths: torch.Tensor,
    ) -> torch.Tensor:
        """The loss, on the device of `log_probs` (T, B, V)."""
        loss = super().forward(log_probs.cpu(), targets.cpu(), input_lengths.cpu(), target_lengths.cpu())
        return loss.to(log_probs.device)


def make_deterministic() -> None:
    """Let torch refuse operations that are not deterministic; call this before CUDA is used."""
    # cuBLAS reads it when it starts; torch refuses matrix products without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def use_deterministic_losses(model: torch.nn.Module) -> None:
    """Compute a model's CTC losses on the CPU, and log what the mode means."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.CTCLoss:
                setattr(module, name, CTCLossOnCPU(child.blank, child.reduction, child.zero_infinity))
    logger.info(
        "Deterministic mode: torch refuses operations that are not (torch.use_deterministic_algorithms), the CTC loss "
        "is computed on the CPU. The same command gives the same bits on the same machine, at the price of speed."
    )
