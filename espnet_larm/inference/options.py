"""Options of ESPnet's decoding program that greedy CTC search cannot honour: each is refused with a sentence.

ESPnet's defaults (beam_size 20, ctc_weight 0.5) are no wish of the user's: a default that was left alone is ignored.
"""

import argparse

UPSTREAM = "python -m espnet_larm --upstream -m espnet2.bin.asr_inference"
# Name -> the only value allowed.
GREEDY_VALUES = {
    "beam_size": 1,
    "ctc_weight": 1.0,
    "nbest": 1,
    "penalty": 0.0,
    "lm_train_config": None,
    "lm_file": None,
    "word_lm_train_config": None,
    "word_lm_file": None,
    "ngram_file": None,
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


def forget_defaults(parser: argparse.ArgumentParser) -> None:
    """Make the options of GREEDY_VALUES None unless the user sets them, in YAML or on the command line."""
    parser.set_defaults(**dict.fromkeys(GREEDY_VALUES))


def check_greedy(args: argparse.Namespace) -> None:
    """Refuse what asks for another search.

    Raises:
        ValueError: With the option, what is allowed, and the program that does it.
    """
    for name, allowed in GREEDY_VALUES.items():
        value = getattr(args, name)
        if value is not None and value != allowed:
            instead = "leave it out" if allowed in (None, False) else f"set {name}: {allowed} or leave it out"
            raise ValueError(f"{name} is {value}, but decoding here is greedy CTC: {instead}, or use {UPSTREAM}.")
    if args.ngpu > 1:
        raise ValueError(f"ngpu is {args.ngpu}; allowed: 0 or 1. Split the key file among several jobs instead.")
    if args.batch_seconds <= 0:
        raise ValueError(f"batch_seconds is {args.batch_seconds}; allowed: above 0, seconds of padded audio.")
    if args.batch_size < 1:
        raise ValueError(f"batch_size is {args.batch_size}; allowed: 1 or more (1 bounds batches by seconds alone).")


def check_decoder(has_attention_decoder: bool, ctc_weight: float | None) -> None:
    """Refuse to leave an attention decoder aside unless the user says so.

    Raises:
        ValueError: ctc_weight was not set to 1.0.
    """
    if has_attention_decoder and ctc_weight is None:
        raise ValueError(
            "the model has an attention decoder, which greedy CTC leaves aside: set ctc_weight: 1.0 to have it so, "
            f"or use {UPSTREAM}."
        )
