"""ESPnet's ASR task with our plugins; importing this module registers them.

A training worker that ESPnet spawns for a GPU starts with an empty registry. It unpickles `LarmASRTask.main_worker`,
which imports this module: hence the registration at import.

Only training matters live here. Decoding with stock programs goes through ESPnet's own ASRTask, so whatever
decoding needs lives in the plugin classes.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessExitedException

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask
from espnet2.train.distributed_utils import get_node_rank

from espnet_larm import registry
from espnet_larm.llm.tokens import DRAFT
from espnet_larm.pack.options import check_sections
from espnet_larm.program import check_config_first
from espnet_larm.speech_llm.within_lengths import WithinLengthsModel
from espnet_larm.train.checks.edit_tokens import take_training_tokens
from espnet_larm.train.checks.init_param import check_init_params
from espnet_larm.train.checks.optimisation import try_optimisation
from espnet_larm.train.checks.pretrained import check_masks, check_rate, check_stored_frames
from espnet_larm.train.checks.streaming import check_streaming
from espnet_larm.train.checks.top_level import check_top_level
from espnet_larm.train.learning import check_frozen, leave_frozen_out
from espnet_larm.train.record import check_record, locked_folder, put_config_aside, record_dry_run
from espnet_larm.train.refusals import (
    check_checkpoint_losses,
    check_gpus,
    check_half_types,
    check_same_ctc_tokens,
    check_same_tokenizer,
    ends_with_a_sentence,
    traced_to_options,
    try_front_end,
    without_nulls,
)
from espnet_larm.train.resumption import check_same_training
from espnet_larm.train.stopping import sigterm_goes_to_workers, status_after
from espnet_larm.train.trainer import LarmTrainer, make_deterministic, use_deterministic_losses

logger = logging.getLogger(__name__)

registry.register()


class LarmASRTask(ASRTask):
    """ESPnet's ASR task, with checks of its options and a trainer that survives kills and full disks."""

    trainer = LarmTrainer

    @classmethod
    def main(cls, args: argparse.Namespace | None = None, cmd: Sequence[str] | None = None) -> None:
        """ESPnet's main; with a process for each GPU, it passes on signals and the exit status.

        Raises:
            SystemExit: An option is wrong, or a training process ended with a status or was killed.
        """
        args = cls.get_parser().parse_args(cmd) if args is None else args
        with sigterm_goes_to_workers(), ends_with_a_sentence():
            check_top_level(args, cls.get_parser())
            check_gpus(args.ngpu)
            with locked_folder(args):
                try:
                    super().main(args=args)
                except ProcessExitedException as error:
                    # ESPnet has set the number of processes by now.
                    first = args.ngpu * (get_node_rank(args.dist_rank, args.dist_launcher) or 0)
                    sys.exit(status_after(error, first, args.dist_world_size))

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """ESPnet's worker, in deterministic mode if the option asks for it; it leaves a training's record alone.

        Raises:
            SystemExit: An option is wrong; spawned processes begin here.
        """
        if args.deterministic:
            make_deterministic()
        with ends_with_a_sentence():
            with traced_to_options(args):
                args = allow_tf32(without_nulls(args))
                check_record(args)
            super().main_worker(args)
            if args.dry_run:
                record_dry_run(args)

    @classmethod
    def get_parser(cls) -> argparse.ArgumentParser:
        """ESPnet's parser, without choices of classes: `check_plugins` checks them and tells the nearest names."""
        parser = super().get_parser()
        # A misspelt option must not set another one.
        parser.allow_abbrev = False
        check_config_first(parser)
        kinds = registry.checked_kinds()
        for action in parser._actions:
            if action.dest in kinds:
                action.choices = None
        return parser

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ESPnetASRModel:
        """Check the options, then build the model as ESPnet does.

        Raises:
            OptionError: A name, or a key or value of a `*_conf`, is wrong, or two of them contradict each other.
        """
        with traced_to_options(args):
            check_plugins(args)
            check_same_ctc_tokens(args)
            if args.init is not None and args.decoder == "speech_llm":
                raise ValueError(f"init is {args.init}, which would overwrite the LM; allowed with speech_llm: null.")
            model = super().build_model(args)
            try_front_end(model)
        if type(model) is ESPnetASRModel:
            # A model of another name could not be read by ESPnet's programs, and another class under ESPnet's name
            # would be theirs, too. So this object alone is changed.
            model.__class__ = WithinLengthsModel
        if getattr(args, "deterministic", False):
            use_deterministic_losses(model)
        return model

    @classmethod
    def build_optimizers(cls, args: argparse.Namespace, model: torch.nn.Module) -> list[torch.optim.Optimizer]:
        """ESPnet's optimisers, over trainable parameters only.

        Called in training alone, and just before ESPnet writes config.yaml, hence the checks here.

        Raises:
            OptionError: `interctc_weight` leaves checkpoint loops without a loss, `init_param` or `freeze_param` match
                nothing, an option of the optimiser or its schedule is wrong, weights that shall be frozen are not, the
                LM has another half type than `use_amp` or other tokens than the texts, `text_kl_text` or the training
                text of an editor cannot be read, a streaming encoder stands behind a part that sees the future, or the
                training would resume another one.
        """
        with traced_to_options(args):
            check_half_types(args)
            if isinstance(model, ESPnetASRModel):
                check_checkpoint_losses(model)
                check_same_tokenizer(args, model)
                if (text_kl := getattr(model, "text_kl", None)) is not None:
                    text_kl.read_text(model.decoder.tokenizer)
                if getattr(model.decoder, "editor", None) is not None:
                    take_training_tokens(args, model.decoder, cls.build_preprocess_fn(args, False))
            # For the record: see allow_tf32.
            if getattr(args, "use_amp", False) and torch.backends.cuda.matmul.allow_tf32:
                args.use_tf32 = True
            check_masks(args)
            check_streaming(args, model)
            check_stored_frames(args, model)
            check_rate(args, model)
            check_init_params(args, model)
            optimizers = super().build_optimizers(args, model=model)
            for optimizer in optimizers:
                num_frozen = leave_frozen_out(optimizer)
                try_optimisation(args, optimizer)
                if num_frozen:
                    logger.info("%s frozen parameters are left out of the optimiser.", f"{num_frozen:,}")
            check_frozen(model, optimizers, args.freeze_param)
            check_same_training(args, model)
        put_config_aside(args)
        return optimizers

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool) -> Callable[..., Any] | None:
        """ESPnet's preprocessing.

        Raises:
            OptionError: An option of the preprocessor is wrong.
        """
        with traced_to_options(args):
            tasks = [*(getattr(args, "aux_ctc_tasks", None) or ()), DRAFT]
            # ESPnet tokenises further texts under this name as it does `text`.
            return super().build_preprocess_fn(argparse.Namespace(**{**vars(args), "aux_ctc_tasks": tasks}), train)

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """ESPnet's, and the drafts that an LM learns to edit."""
        return (*super().optional_data_names(train, inference), DRAFT)

    @classmethod
    def check_task_requirements(
        cls, dataset: Any, allow_variable_data_keys: bool, train: bool, inference: bool = False
    ) -> None:
        """ESPnet's check of the data's names; an LM may learn to edit from texts and drafts without speech.

        Raises:
            RuntimeError: A name is missing or unknown.
        """
        if not inference and {*dataset.names()} == {"text", DRAFT}:
            # The model refuses the first batch if it needs speech.
            return
        super().check_task_requirements(dataset, allow_variable_data_keys, train, inference)


def allow_tf32(args: argparse.Namespace) -> argparse.Namespace:
    """Let a GPU multiply float32 in TF32 also under `use_amp`, for what autocast leaves in float32.

    Returns:
        Options without `use_tf32` where there is `use_amp`: ESPnet asserts that there is one of them alone.
    """
    if not (args.use_tf32 and args.use_amp):
        return args
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    return argparse.Namespace(**{**vars(args), "use_tf32": False})


def check_plugins(args: argparse.Namespace) -> None:
    """Refuse unknown class names and unknown keys of their `*_conf`.

    Raises:
        ValueError: One is unknown; it tells the nearest names. Or a section holds no options.
    """
    check_sections(vars(args))
    for kind in (*registry.checked_kinds(), *registry.TABLES):
        # Options of old experiments lack some.
        if hasattr(args, kind):
            registry.check_name(kind, getattr(args, kind))
    for kind in (*registry.checked_kinds(), *registry.TABLES, *registry.SINGLE):
        name = kind if kind in registry.SINGLE else getattr(args, kind, None)
        registry.check_conf(kind, name, getattr(args, f"{kind}_conf", None) or {})
