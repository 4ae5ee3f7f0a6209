"""Options that name a model to listen with, and the model that they name; `transcribe` and `serve` share them."""

import argparse
import contextlib
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_larm.cli.device import add_device, device_of
from espnet_larm.errors import OptionError
from espnet_larm.options import add_option, given_options
from espnet_larm.pack.models import add_places
from espnet_larm.recognize.config import AUTO, WORD_OPTIONS, DecodeConfig

if TYPE_CHECKING:
    from espnet_larm.listen.transcriber import Transcriber

# Options of loops that each piece of a recording chooses by itself.
LEAVING = ("loop_rule", "loop_threshold")
DECODING = (
    *("beam_size", "ctc_weight", "ngram_file", "ngram_weight", "drafts", "prefix", "suffix", "instruction"),
    *WORD_OPTIONS,
    *LEAVING,
    *("long_seconds", "longest_piece", "shortest_piece", "overlap"),
)
DTYPES = ("float32", "float64", "bfloat16", "float16")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a model."""
    model_help = (
        "a pack (.zip), an experiment's folder, the name of a packaged model, or Whisper or a CTC model of "
        "transformers by folder or hub id (default: the packaged model named default, which needs no network)"
    )
    parser.add_argument("--model", help=model_help)
    parser.add_argument(
        "--asr_model_file", type=Path, help="weights in an experiment's folder (default: its only *.ave.pth)"
    )
    add_places(parser)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the options of where and how a model computes, and of what is logged."""
    add_device(parser)
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="type of the weights (default: float32)")
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    parser.add_argument("--log_level", choices=levels, default="WARNING", help="what is logged (default: WARNING)")


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """Add the options of decoding that are of use for whole recordings."""
    group = parser.add_argument_group("decoding, for models of ours")
    for name in DECODING:
        add_option(group, DecodeConfig, name)


def parse_loops(word: str) -> tuple[int, ...] | str:
    """The loops that a word names, ascending; or AUTO.

    Raises:
        argparse.ArgumentTypeError: It names none.
    """
    if word == AUTO:
        return AUTO
    # Here, since a program whose help is read hears nothing.
    from espnet_larm.listen.engine import read_loops

    try:
        return read_loops(word)
    except OptionError as error:
        said = str(error).removeprefix("loops is ").removesuffix(".")
        raise argparse.ArgumentTypeError(f"{said}, or auto") from error


def given_decoding(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The given options of decoding: those of any number of loops, and those of LEAVING."""
    given = given_options(DecodeConfig, args)
    return given, {name: given.pop(name) for name in LEAVING if name in given}


def set_log_level(args: argparse.Namespace) -> None:
    """Let the option `log_level` have its effect."""
    logging.getLogger().setLevel(args.log_level)
    # It warns of what its own code passes to itself.
    logging.getLogger("transformers").setLevel(max(logging.getLogger().level, logging.ERROR))


def load(args: argparse.Namespace) -> "Transcriber":
    """The model that the options name.

    Raises:
        ValueError: The model is refused, or an option does not go with it.
        FileNotFoundError: It is not there.
    """
    from espnet_larm.listen import models

    device = device_of(args.device)
    # What packages say while they are imported, and ESPnet while it builds a model, is no message of ours.
    logging.disable(logging.WARNING if args.log_level == "WARNING" else logging.NOTSET)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            source = models.default_model() if args.model is None else args.model
            return models.load(source, device, args.dtype, args.asr_model_file, args.llm, args.encoder)
    finally:
        logging.disable(logging.NOTSET)
