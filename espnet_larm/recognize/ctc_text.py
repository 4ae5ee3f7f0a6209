"""Tokens of a CTC head to text: the model's own, the LM's, or those that the head has beside an LM."""

import argparse
from collections.abc import Callable
from typing import Any

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.text.build_tokenizer import build_tokenizer

from espnet_larm.search.ctc_scorer import Spell
from espnet_larm.speech_llm.spelling import Spelling


def ctc_text_maker(
    model: ESPnetASRModel, args: argparse.Namespace, token_type: str | None = None, bpemodel: str | None = None
) -> Callable[[list[str]], str]:
    """What joins tokens to a text.

    Args:
        model: That has them.
        args: Options of its training.
        token_type: How tokens make text, as trained by default.
        bpemodel: The sentencepiece model of `token_type: bpe`, as trained by default.

    Raises:
        ValueError: token_type or bpemodel is given for a model with an LM, whose tokens are the LM's.
    """
    if not hasattr(model.decoder, "special_tokens"):
        return _read(token_type or args.token_type or "word", bpemodel or args.bpemodel)
    for name, value in (("token_type", token_type), ("bpemodel", bpemodel)):
        if value is not None:
            raise ValueError(
                f"{name} is {value}, but the model has an LM, whose tokenizer makes its texts; leave it out."
            )
    if model.has_own_ctc_tokens:
        conf = args.preprocessor_conf or {}
        return _read(conf.get("ctc_token_type", "char"), conf.get("ctc_bpemodel"))
    ids = {token: index for index, token in enumerate(model.token_list)}
    tokenizer = model.decoder.tokenizer

    def decode(tokens: list[str]) -> str:
        return " ".join(tokenizer.decode([ids[token] for token in tokens], skip_special_tokens=True).split())

    return decode


def _read(token_type: str, bpemodel: str | None) -> Callable[[list[str]], str]:
    tokenizer = build_tokenizer(token_type, bpemodel)
    # ESPnet reads a sentencepiece model at its first use, when a pack's temporary files are gone.
    tokenizer.tokens2text([])
    return tokenizer.tokens2text


def spelling_of(model: ESPnetASRModel, preprocess: Any) -> Spell | None:
    """How the LM's tokens are spelled in those of the CTC head; None if it has none of its own.

    Args:
        model: With a CTC head.
        preprocess: As trained; without a `speech_llm` one the spelling is not known, which gives None, too.
    """
    if not getattr(model, "has_own_ctc_tokens", False) or getattr(preprocess, "ctc_converter", None) is None:
        return None
    # ESPnet reads a sentencepiece model at its first use, when a pack's temporary files are gone.
    preprocess.to_ctc_ids("")
    is_by_words = preprocess.ctc_token_type == "bpe"  # noqa: S105  # no password
    return Spelling(model.decoder.tokenizer, preprocess.to_ctc_ids, is_by_words)
