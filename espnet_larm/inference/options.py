"""Options of ESPnet's decoding program that our searches cannot honour: each is refused with a sentence.

ESPnet's defaults (beam_size 20, ctc_weight 0.5) are no wish of the user's: a default that was left alone is ignored,
and the search is greedy.
"""

import argparse

UPSTREAM = "python -m espnet_larm --upstream -m espnet2.bin.asr_inference"
# Name -> the only value allowed.
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


def forget_defaults(parser: argparse.ArgumentParser) -> None:
    """Make ctc_weight, ngram_weight and the options of CTC_VALUES None unless the user sets them; greedy search."""
    parser.set_defaults(**dict.fromkeys(CTC_VALUES), ctc_weight=None, ngram_weight=None, beam_size=1)


def check_search(args: argparse.Namespace) -> None:
    """Refuse what asks for another search.

    Raises:
        ValueError: With the option, what is allowed, and the program that does it.
    """
    if args.ctc_weight is not None:
        check_ctc_weight(args.ctc_weight)
    for name, allowed in CTC_VALUES.items():
        value = getattr(args, name)
        if value is not None and value != allowed:
            instead = "leave it out" if allowed in (None, False) else f"set {name}: {allowed} or leave it out"
            raise ValueError(
                f"{name} is {value}, but decoding here is by CTC or an LM alone: {instead}, or use {UPSTREAM}."
            )
    if args.ngram_weight and args.ngram_file is None:
        raise ValueError(f"ngram_weight is {args.ngram_weight}, but no ngram_file is named; name it or leave it out.")
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


def check_decoder(has_attention_decoder: bool, ctc_weight: float | None) -> None:
    """Refuse to leave an attention decoder aside unless the user says so.

    Raises:
        ValueError: ctc_weight was not set to 1.0.
    """
    if has_attention_decoder and ctc_weight is None:
        raise ValueError(
            "the model has an attention decoder, which decoding by CTC leaves aside: set ctc_weight: 1.0 to have it "
            f"so, or use {UPSTREAM}."
        )
