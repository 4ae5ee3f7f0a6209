"""Options of ESPnet's decoding program: those that our searches honour, and those that ESPnet's own program gets.

ESPnet's defaults (beam_size 20, ctc_weight 0.5) are no wish of the user's: a default that the user did
not set is ignored, and the search is greedy.
"""

import argparse
import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

UPSTREAM = "python -m espnet_larm --upstream -m espnet2.bin.asr_inference"
# Name -> the only value that our searches honour.
CTC_VALUES = {
    "penalty": 0.0,
    "lm_train_config": None,
    "lm_file": None,
    "word_lm_train_config": None,
    "word_lm_file": None,
    "model_tag": None,
    "streaming": False,
    "enh_s2t_task": False,
    "multi_asr": False,
    "quantize_asr_model": False,
    "quantize_lm": False,
    "hugging_face_decoder": False,
    "time_sync": False,
    "transducer_conf": None,
    "partial_ar": False,
}
AUDIO_TYPES = ("sound", "kaldi_ark")


def forget_defaults(parser: argparse.ArgumentParser) -> None:
    """Make ctc_weight, ngram_weight and the options of CTC_VALUES None unless the user sets them; greedy search."""
    parser.set_defaults(**dict.fromkeys(CTC_VALUES), ctc_weight=None, ngram_weight=None, beam_size=1)


def espnets_option(args: argparse.Namespace) -> str:
    """What among the options asks for ESPnet's own program; empty if nothing does."""
    for name, ours in CTC_VALUES.items():
        value = getattr(args, name)
        if value is not None and value != ours:
            return f"{name} is {value}"
    for path, name, data_type in args.data_path_and_name_and_type:
        if name == "speech" and data_type not in AUDIO_TYPES:
            return f"{name} ({path}) is of type {data_type}"
    return ""


def espnets_model(config: Mapping[str, Any], args: argparse.Namespace) -> str:
    """What in a model's configuration asks for ESPnet's own program; empty if nothing does.

    Args:
        config: Of the training.
        args: Of the decoding.
    """
    if config.get("input_size") is not None:
        return f"the model reads features of size {config['input_size']} from archives"
    decoder = config.get("decoder")
    # ESPnet trains none with CTC alone, whatever the YAML says.
    if decoder is None or (config.get("model_conf") or {}).get("ctc_weight") == 1.0:
        return f"ngram_file is {args.ngram_file}, and the model has a CTC head alone" if args.ngram_file else ""
    if decoder != "speech_llm" and args.ctc_weight != 1.0:
        return f"the model has decoder: {decoder} (ctc_weight 1.0 leaves it aside)"
    return ""


def check_search(args: argparse.Namespace) -> None:
    """Refuse values that are out of their ranges.

    Raises:
        ValueError: With the option and what is allowed.
    """
    if args.ctc_weight is not None:
        check_ctc_weight(args.ctc_weight)
    if args.ngram_weight and args.ngram_file is None:
        # ESPnet passes over it, and recipes share one YAML for decoding with and without.
        logger.info("ngram_weight is %s, and no ngram_file is named: it weighs nothing.", args.ngram_weight)
    if args.beam_size < 1:
        raise ValueError(f"beam_size is {args.beam_size}; allowed: 1 (greedy) or more.")
    if not 1 <= args.nbest <= args.beam_size:
        raise ValueError(f"nbest is {args.nbest}; allowed: 1 to beam_size, which is {args.beam_size}.")
    if args.ngpu > 1:
        raise ValueError(f"ngpu is {args.ngpu}; allowed: 0 or 1. Split the key file among several jobs instead.")
    if args.batch_seconds <= 0:
        raise ValueError(f"batch_seconds is {args.batch_seconds}; allowed: above 0, seconds of padded audio.")
    if args.batch_size < 1:
        raise ValueError(f"batch_size is {args.batch_size}; allowed: 1 or more (1 bounds batches by seconds alone).")


def check_ctc_weight(ctc_weight: float) -> None:
    """Refuse what is no weight.

    Raises:
        ValueError: It is not 0 to 1.
    """
    if not 0.0 <= ctc_weight <= 1.0:
        raise ValueError(
            f"ctc_weight is {ctc_weight}; allowed: 1.0 (CTC alone), and with an LM 0.0 (the LM alone) to below 1.0."
        )
