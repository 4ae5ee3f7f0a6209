"""Drafts that an LM learns to edit: what the model's own CTC head recognises.

A model that has learned its training set recognises it too well. So drafts are made with dropout and SpecAugment, also
of an encoder that is frozen and otherwise in eval mode; `wer_draft` in train.log says how wrong they are.
Shapes: B utterances, T frames, V tokens of the CTC head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from espnet_larm.search.ctc.posteriors import greedy
from espnet_larm.speech_llm.spelling import texts_of


class CtcDrafts:
    """Greedy CTC hypotheses in an LM's tokens.

    Args:
        tokenizer: HF's, of the LM.
        own_tokens: The CTC head's tokens if they are not the LM's, the blank first.
    """

    def __init__(self, tokenizer: Any, own_tokens: Sequence[str] | None = None) -> None:
        self.tokenizer = tokenizer
        self._texts = None if own_tokens is None else texts_of(own_tokens)

    def __call__(self, logits: torch.Tensor, lens: torch.Tensor) -> list[list[int]]:
        """A draft of each utterance from logits (B, T, V) of valid frames (B,)."""
        found = greedy(logits.detach(), lens.to(logits.device)).to_lists()
        if self._texts is None:
            special = set(self.tokenizer.all_special_ids)
            return [[token for token in row if token not in special] for row in found]
        texts = [" ".join("".join(self._texts[token] for token in row).split()) for row in found]
        return [self.tokenizer.encode(text, add_special_tokens=False) if text else [] for text in texts]


@contextmanager
def dropout_on(module: torch.nn.Module) -> Iterator[None]:
    """With the dropout layers of a module in training mode, all others as they are."""
    layers = [each for each in module.modules() if isinstance(each, torch.nn.modules.dropout._DropoutNd)]
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode


def unpadded(tokens: torch.Tensor, lens: torch.Tensor) -> list[list[int]]:
    """Rows (B, L) up to their lengths (B,)."""
    return [row[:length] for row, length in zip(tokens.tolist(), lens.tolist(), strict=True)]
