"""The tokens that an LM of a large vocabulary chooses among when it edits: those of the training text."""

import argparse
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.speech_llm.editing.options import MOST_TOKENS, TOKENS_FILE, WHERE
from espnet_larm.speech_llm.editing.tokens import coverage, read_token_ids, write_token_ids

logger = logging.getLogger(__name__)


def take_training_tokens(args: argparse.Namespace, decoder: Any, preprocess: Callable[..., Any] | None) -> None:
    """Restrict an LM's edits to the training text's tokens, and name their file in the options that config.yaml holds.

    A resumed training reads the file that the first one has written.

    Args:
        args: Options of the training, before ESPnet writes them.
        decoder: A `speech_llm` that edits.
        preprocess: What makes tokens of a text.

    Raises:
        ValueError: There is no text to take tokens from.
        FileNotFoundError: A text is missing.
    """
    editor = decoder.editor
    if editor.options.tokens is not None or editor.vocab_size <= MOST_TOKENS:
        return
    path = Path(args.output_dir) / TOKENS_FILE
    if args.resume and path.is_file():
        ids = read_token_ids(path, editor.vocab_size)
    else:
        ids = _ids_of(args, decoder, preprocess)
        is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not is_distributed or torch.distributed.get_rank() == 0:
            write_token_ids(path, ids.tolist(), decoder.tokenizer)
    editor.restrict(ids.to(decoder.backbone.model.device))
    args.decoder_conf = {**args.decoder_conf, "editing": {**args.decoder_conf["editing"], "tokens": str(path)}}
    known = editor.token_ids.tolist()
    valid = list(_texts(args.valid_data_path_and_name_and_type, preprocess))
    logger.info(
        "Edits choose among %s of the LM's %s tokens (%s): those of the training text, which has %.2f %% of the "
        "tokens of the development text.",
        f"{len(known):,}",
        f"{editor.vocab_size:,}",
        path,
        100 * coverage(valid, known),
    )


def _ids_of(args: argparse.Namespace, decoder: Any, preprocess: Callable[..., Any] | None) -> torch.Tensor:
    """The ids of the training text's tokens (C,), ascending."""
    texts = _texts(args.train_data_path_and_name_and_type, preprocess)
    ids = {token for text in texts for token in text} - {*decoder.tokenizer.all_special_ids}
    if not ids:
        raise ValueError(
            f"{WHERE}: tokens is not given, and the training data hold no `text` of the type text that the tokens of "
            "edits could be taken from; name a file of ids."
        )
    return torch.tensor(sorted(ids))


def _texts(data: Iterable[Any], preprocess: Callable[..., Any] | None) -> Iterator[list[int]]:
    """Transcripts of a training's data, in tokens."""
    for path, name, kind in data:
        if name == "text" and kind == "text" and preprocess is not None:
            # A folder holds shards (multiple_iterator).
            files = sorted(Path(path).glob("split.*")) if Path(path).is_dir() else [Path(path)]
            for file in files:
                for key, line in read_table(file).items():
                    yield preprocess(key, {"text": line})["text"].tolist()
