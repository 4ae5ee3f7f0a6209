"""Options of ESPnet's decoding program: those that our searches honour, and those that ESPnet's own program gets.

ESPnet's defaults (beam_size 20, ctc_weight 0.5) are no wish of the user's: a default that the user did not set is
ignored, and the search is greedy.
"""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from espnet_larm.options import SEED, Option, check_parsed
from espnet_larm.recognize.audio import AUDIO_TYPES

# Name -> the only value that our searches honour.
CTC_VALUES = {
    "penalty": 0.0,
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
# The kind of ESPnet's models of text that ours rescores by.
SENTENCE_MODEL = "lm"
RANGES = {
    "seed": SEED,
    "minlenratio": Option("share of the input's length", least=0),
    "num_workers": Option("processes that load", least=0),
}


def forget_defaults(parser: argparse.ArgumentParser) -> None:
    """Make weights and the options of CTC_VALUES None unless the user sets them; greedy search."""
    weights = dict.fromkeys(("ctc_weight", "ngram_weight", "lm_weight"))
    parser.set_defaults(**dict.fromkeys(CTC_VALUES), **weights, beam_size=1)


def check_values(args: argparse.Namespace, actions: Iterable[argparse.Action]) -> None:
    """Refuse values of ESPnet's options that its program fails at.

    Args:
        args: Options of decoding.
        actions: ESPnet's own, whose defaults no YAML has changed.

    Raises:
        ValueError: With the option, its value and what is allowed.
    """
    check_parsed(actions, args, RANGES)
    # torch takes seconds to import.
    import torch

    if unknown := [name for name in args.quantize_modules or [] if not hasattr(torch.nn, name)]:
        raise ValueError(f"quantize_modules: {', '.join(unknown)}: not in torch.nn; allowed: Linear or LSTM, say.")


def espnets_option(args: argparse.Namespace) -> str:
    """What among the options asks for ESPnet's own program; empty if nothing does."""
    for name, ours in CTC_VALUES.items():
        value = getattr(args, name)
        if value is not None and value != ours:
            return f"{name} is {value}"
    if args.lm_file is not None and args.beam_size == 1:
        return f"lm_file is {args.lm_file} and beam_size 1: it rescores a beam of ours (--beam_size 10, say)"
    for path, name, data_type in args.data_path_and_name_and_type:
        if name == "speech" and data_type not in AUDIO_TYPES:
            return f"{name} ({path}) is of type {data_type}"
    return ""


def espnets_model(config: Mapping[str, Any], args: argparse.Namespace) -> str:
    """What in a model's configuration asks for ESPnet's own program; empty if nothing does.

    Args:
        config: Options of the training.
        args: Options of decoding.
    """
    if config.get("input_size") is not None:
        return f"the model reads features of size {config['input_size']} from archives"
    decoder = config.get("decoder")
    # ESPnet trains none with CTC alone, whatever the YAML says.
    if decoder is None or (config.get("model_conf") or {}).get("ctc_weight") == 1.0:
        return ""
    if decoder == "speech_llm" and args.ctc_weight != 1.0 and args.lm_file is not None:
        return f"lm_file is {args.lm_file}, which scores CTC's hypotheses, and the model has an LM that decodes"
    if decoder != "speech_llm" and args.ctc_weight != 1.0:
        return f"the model has decoder: {decoder} (ctc_weight 1.0 leaves it aside)"
    return ""


def espnets_lm(config: Mapping[str, Any]) -> str:
    """What in the options of a text LM's training asks for ESPnet's own program; empty if nothing does."""
    kind = config.get("model", SENTENCE_MODEL)
    return "" if kind == SENTENCE_MODEL else f"the LM that scores has model: {kind}"
