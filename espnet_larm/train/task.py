"""ESPnet's ASR task with our plugins; importing this module registers them.

A training worker that ESPnet spawns for a GPU starts with an empty registry. It unpickles `LarmASRTask.main_worker`,
which imports this module: hence the registration at import.

Only training matters live here. Decoding with stock programs goes through ESPnet's own ASRTask, so whatever
decoding needs lives in the plugin classes.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

import torch
from torch.multiprocessing.spawn import ProcessExitedException

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask

from espnet_larm import registry
from espnet_larm.speech_llm.within_lengths import WithinLengthsModel
from espnet_larm.train import deterministic
from espnet_larm.train.init_param import check_init_params
from espnet_larm.train.learning import check_frozen
from espnet_larm.train.optimizers import leave_frozen_out
from espnet_larm.train.refusals import check_gpus, ends_with_a_sentence, take_null_for_nothing, traced_to_options
from espnet_larm.train.resumption import check_same_training
from espnet_larm.train.stopping import sigterm_goes_to_workers
from espnet_larm.train.task_tokens import check_same_ctc_tokens, check_same_tokenizer
from espnet_larm.train.trainer import LarmTrainer

logger = logging.getLogger(__name__)

registry.register()


class LarmASRTask(ASRTask):
    """ASRTask that refuses misspelt names and keys, and losses that would miss checkpoint loops.

    Its trainer survives kills, signals, damaged files and full disks.
    """

    trainer = LarmTrainer

    @classmethod
    def main(cls, args: argparse.Namespace | None = None, cmd: Sequence[str] | None = None) -> None:
        """ESPnet's main; with a process a GPU, signals and the exit status pass through it.

        Raises:
            SystemExit: An option is wrong, or a training process ended so.
        """
        args = cls.get_parser().parse_args(cmd) if args is None else args
        with sigterm_goes_to_workers(), ends_with_a_sentence():
            check_gpus(args.ngpu)
            try:
                super().main(args=args)
            except ProcessExitedException as error:
                # One that ended by itself has said why.
                if error.exit_code < 0:
                    raise
                sys.exit(error.exit_code)

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """ESPnet's, in deterministic mode if `deterministic` asks for it.

        Raises:
            SystemExit: An option is wrong. It stands here because a spawned process begins here.
        """
        if args.deterministic:
            deterministic.switch_on()
        with ends_with_a_sentence():
            super().main_worker(args)

    @classmethod
    def get_parser(cls) -> argparse.ArgumentParser:
        """ESPnet's parser; names of classes are checked by `check_plugins`, which tells the nearest ones."""
        parser = super().get_parser()
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
            take_null_for_nothing(args)
            check_plugins(args)
            check_same_ctc_tokens(args)
            if args.init is not None and args.decoder == "speech_llm":
                raise ValueError(f"init is {args.init}, which would overwrite the LM; allowed with speech_llm: null.")
            model = super().build_model(args)
        if type(model) is ESPnetASRModel:
            # A model of another name could not be read by ESPnet's programs, and another class under ESPnet's name
            # would be theirs, too. So this object alone is changed.
            model.__class__ = WithinLengthsModel
        if getattr(args, "deterministic", False):
            deterministic.use_deterministic_losses(model)
        return model

    @classmethod
    def build_optimizers(cls, args: argparse.Namespace, model: torch.nn.Module) -> list[torch.optim.Optimizer]:
        """ESPnet's, over trainable parameters only.

        Called in training alone, and just before ESPnet writes config.yaml, hence the checks here.

        Raises:
            OptionError: `interctc_weight` leaves checkpoint loops without a loss, `init_param` or `freeze_param` match
                nothing, an option of the optimiser is wrong, weights that shall be frozen are not, the LM and the texts
                have other tokens, `text_kl_text` cannot be read, or the training would resume another one.
        """
        with traced_to_options(args):
            if isinstance(model, ESPnetASRModel):
                check_checkpoint_losses(model)
                check_same_tokenizer(args, model)
                if (text_kl := getattr(model, "text_kl", None)) is not None:
                    text_kl.read_text(model.decoder.tokenizer)
            check_init_params(args, model)
            optimizers = super().build_optimizers(args, model=model)
            for optimizer in optimizers:
                num_frozen = leave_frozen_out(optimizer)
                if num_frozen:
                    logger.info("%s frozen parameters are left out of the optimiser.", f"{num_frozen:,}")
            check_frozen(model, optimizers, args.freeze_param)
            check_same_training(args, model)
        return optimizers


def check_plugins(args: argparse.Namespace) -> None:
    """Refuse unknown class names and unknown keys of their `*_conf`.

    Raises:
        ValueError: With the nearest names.
    """
    for kind in registry.checked_kinds():
        name = getattr(args, kind, None)
        registry.check_name(kind, name)
        registry.check_conf(kind, name, getattr(args, f"{kind}_conf", None) or {})


def check_checkpoint_losses(model: ESPnetASRModel) -> None:
    """Refuse a model whose loss would leave out checkpoint loops; say so if it weighs them unevenly.

    ESPnet's CTC loss is (1 - w) * last + w * mean(others) with w = `interctc_weight`, 0 by default: n checkpoints
    weigh the same with w = (n - 1) / n.

    Raises:
        ValueError: The feedback has no CTC head, intermediate checkpoint loops have no loss, or the decoder cannot be
            used with them.
    """
    encoder = model.encoder
    num_checkpoints = getattr(encoder, "num_checkpoints", 1)
    if getattr(encoder, "interctc_use_conditioning", False) and model.ctc is None:
        raise ValueError(
            "model_conf: ctc_weight is 0, but the encoder feeds CTC posteriors back. "
            "Set model_conf: ctc_weight above 0, or encoder_conf: feedback: false."
        )
    if num_checkpoints == 1:
        return
    if reason := _why_no_checkpoints(model):
        raise ValueError(
            f"{reason}, but encoder_conf: checkpoint_period {encoder.checkpoint_period} gives {num_checkpoints} "
            f"checkpoint loops. Set encoder_conf: checkpoint_period: {encoder.num_loops}."
        )
    even = (num_checkpoints - 1) / num_checkpoints
    if model.interctc_weight == 0.0:
        raise ValueError(
            f"model_conf: interctc_weight is 0, so that only the last of the encoder's {num_checkpoints} checkpoint "
            f"loops would have a loss. Set it to {even:.4f}, which weighs all alike, "
            f"or encoder_conf: checkpoint_period: {encoder.num_loops} for a loss at the last loop alone."
        )
    if abs(model.interctc_weight - even) > 0.005:
        logger.warning(
            "model_conf: interctc_weight %.4f weighs the last of %d checkpoint loops %.3f and each other %.3f; "
            "%.4f would weigh all alike.",
            model.interctc_weight,
            num_checkpoints,
            1 - model.interctc_weight,
            model.interctc_weight / (num_checkpoints - 1),
            even,
        )


def _why_no_checkpoints(model: ESPnetASRModel) -> str:
    """Why only the last loop can be used; empty if all can."""
    if getattr(model, "use_transducer_decoder", False):
        # ESPnet's asr_inference reads intermediate outputs with the tokens of a beam search that a transducer has not.
        return "decoder: transducer cannot be decoded with intermediate outputs"
    if model.ctc is None:
        return "model_conf: ctc_weight is 0, so that intermediate outputs have no loss"
    return ""
