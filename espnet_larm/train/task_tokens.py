"""What ESPnet's preprocessor and a model with an LM are told of the same tokens, in two options, is compared."""

import argparse
import filecmp
from pathlib import Path

from espnet2.asr.espnet_model import ESPnetASRModel


def check_same_ctc_tokens(args: argparse.Namespace) -> None:
    """Refuse other tokens for the texts of a CTC head than it has: a list of the same size would train it wrongly.

    Raises:
        ValueError: With both files.
    """
    head, texts = (
        (getattr(args, name, None) or {}).get("ctc_token_list") for name in ("model_conf", "preprocessor_conf")
    )
    if head is None or texts is None or not (Path(head).is_file() and Path(texts).is_file()):
        # One that is missing is said where it is read.
        return
    if not filecmp.cmp(head, texts, shallow=False):
        raise ValueError(
            f"model_conf: ctc_token_list is {head}, but preprocessor_conf: ctc_token_list is {texts}, which holds "
            "other tokens; name the same file in both."
        )


def check_same_tokenizer(args: argparse.Namespace, model: ESPnetASRModel) -> None:
    """Refuse texts in other tokens than the LM's: ESPnet's preprocessor takes the newest of the hub, not `revision`.

    Args:
        args: Of the training.
        model: As built.

    Raises:
        ValueError: With what to do.
        FileNotFoundError: The preprocessor's tokenizer cannot be had.
    """
    is_of_lm = args.token_type == "hugging_face"  # noqa: S105  # no password
    if args.decoder != "speech_llm" or not is_of_lm or args.bpemodel is None:
        return
    llm, tokenizer = args.decoder_conf.get("llm"), args.decoder_conf.get("tokenizer")
    revision = args.decoder_conf.get("revision") if tokenizer is None else None
    if args.bpemodel == (tokenizer or llm) and revision is None:
        return
    # transformers takes seconds to import.
    from espnet_larm.llm.backbone import load_tokenizer

    if load_tokenizer(args.bpemodel).get_vocab() != model.decoder.tokenizer.get_vocab():
        raise ValueError(
            f"bpemodel is {args.bpemodel}, of which ESPnet takes the newest tokenizer; its tokens are not those of the "
            f"decoder (decoder_conf: llm {llm}, revision {revision}, tokenizer {tokenizer}). Put the one that is meant "
            "into a folder (hf download NAME --revision REVISION --local-dir FOLDER), and name that in both."
        )
