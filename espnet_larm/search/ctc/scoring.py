"""Log-probabilities of given hypotheses by CTC, all alignments of each together. It knows no model.

Shapes: B utterances, T frames, V tokens, R hypotheses in all, L tokens of the longest, K tokens that any of them has.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

NO_PATH = float("-inf")


def log_probs_of(
    log_probs: torch.Tensor, lens: torch.Tensor, texts: Sequence[Sequence[Sequence[int]]], blank: int = 0
) -> list[list[float]]:
    """The log-probability of each hypothesis of each utterance.

    Args:
        log_probs: Log-probabilities (B, T, V) of tokens at frames.
        lens: Valid frames (B,).
        texts: Tokens of the hypotheses of each utterance; a negative one is no token.
        blank: Id of the blank, which no hypothesis has.

    Returns:
        By utterance, -inf for hypotheses that have no alignment, or what is no token.
    """
    flat = [(row, list(text)) for row, found in enumerate(texts) for text in found]
    if not flat:
        return [[] for _ in texts]
    scored = [[] if min(text, default=0) < 0 else text for _, text in flat]
    columns = [blank, *sorted({token for text in scored for token in text})]
    class_of = {token: number for number, token in enumerate(columns)}
    rows = torch.tensor([row for row, _ in flat]).to(log_probs.device, non_blocking=True)
    text_lens = torch.tensor([len(text) for text in scored])
    classes = torch.zeros(len(scored), max(1, int(text_lens.max())), dtype=torch.long)
    for padded, text in zip(classes, scored, strict=True):
        padded[: len(text)] = torch.tensor([class_of[token] for token in text], dtype=torch.long)
    chosen = log_probs[..., torch.tensor(columns).to(rows.device, non_blocking=True)][rows]  # (R, T, K)
    classes, lens, text_lens = (each.to(rows.device, non_blocking=True) for each in (classes, lens, text_lens))
    given = chosen.transpose(0, 1), classes, lens[rows], text_lens
    scores = iter((-functional.ctc_loss(*given, reduction="none")).tolist())
    found = [NO_PATH if min(text, default=0) < 0 else score for (_, text), score in zip(flat, scores, strict=True)]
    values = iter(found)
    return [[next(values) for _ in each] for each in texts]
