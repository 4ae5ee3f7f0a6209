"""The best edits of a draft: a CTC prefix beam over its positions, and log-probabilities of any text.

Shapes: B drafts, N positions, D model size, C tokens of an edit.
"""

from collections.abc import Sequence
from typing import Any

import torch

from espnet_larm.llm.chunks import by_chunks
from espnet_larm.search.ctc.beam import prefix_beam
from espnet_larm.search.ctc.scoring import log_probs_of
from espnet_larm.speech_llm.editing.layout import Layout


class EditPosteriors:
    """What an edit may hold at each position of a draft.

    Args:
        decoder: A `speech_llm` with `editing`.
        hidden: States at the positions (B, N, D).
        layout: Drafts with their blanks.
    """

    @torch.no_grad()
    def __init__(self, decoder: Any, hidden: torch.Tensor, layout: Layout) -> None:
        self.editor, self.layout = decoder.editor, layout
        self.special: list[int] = decoder.tokenizer.all_special_ids
        mask = layout.mask.to(hidden.device)

        def predict(states: torch.Tensor) -> tuple[torch.Tensor]:
            return (decoder.backbone.logits(states, self.editor.token_ids).float().log_softmax(-1),)

        (found,) = by_chunks(predict, self.editor.num_tokens, hidden.detach()[mask])
        size = (*mask.shape, self.editor.num_tokens)
        self.log_probs = found.new_zeros(size).masked_scatter(mask.unsqueeze(-1), found)  # (B, N, C)
        self.blank = int(self.editor.places_of(torch.tensor(self.editor.blank, device=hidden.device)))

    @torch.no_grad()
    def search(self, beam_size: int) -> list[list[list[int]]]:
        """The best texts of each draft, best first, in the LM's tokens; without special ones."""
        device = self.log_probs.device
        special = self.editor.places_of(torch.tensor(self.special, device=device))
        ruled_out = special[(special >= 0) & (special != self.blank)]
        allowed = self.log_probs.index_fill(2, ruled_out, float("-inf"))
        found = prefix_beam(allowed, self.layout.lens.to(device), beam_size, self.blank).to_lists()
        ids = self.editor.token_ids
        names = None if ids is None else ids.tolist()
        return [[text if names is None else [names[place] for place in text] for text in row] for row in found]

    @torch.no_grad()
    def score(self, texts: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
        """Log-probabilities of texts of each draft; -inf for those that no edit can be."""
        flat = torch.tensor([token for row in texts for text in row for token in text], dtype=torch.long)
        places = iter(self.editor.places_of(flat.to(self.log_probs.device)).tolist())
        columns = [[[next(places) for _ in text] for text in row] for row in texts]
        return log_probs_of(self.log_probs, self.layout.lens, columns, self.blank)
