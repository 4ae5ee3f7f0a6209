"""A start for the projector: its embeddings are drawn to those of the transcript's tokens, before the LM is asked.

CTC whose classes are the LM's own embeddings: the nearer an embedding of speech is to a token's, the more likely is the
token there, and a learned embedding stands for none. CTC finds which frames are whose. A step costs no pass through the
LM, so that hours of speech go by in minutes.
Ours; related are embeddings by posteriors (Ma et al., "LegoSLM", arXiv:2505.11352) and optimal transport between frames
and text. Classes are the tokens of the batch, so that a vocabulary of 262,144 costs nothing.
Shapes: B utterances, T embeddings of speech, D size of the LM, L tokens, C classes.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

# The difference in logits between a token's own embedding and another token's, at the start.
SHARPNESS = 10.0


class Aligned(NamedTuple):
    """Loss and figures of a batch.

    Attributes:
        loss: Mean over utterances, with gradient.
        accuracy: 1 less the token error rate of the likeliest classes, among the tokens of the batch; 0 at least.
        without_room: Share of utterances with fewer embeddings than CTC needs; they teach nothing.
    """

    loss: torch.Tensor
    accuracy: torch.Tensor
    without_room: torch.Tensor


class Alignment(torch.nn.Module):
    """The loss, with what it learns.

    Args:
        size: D.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.blank = torch.nn.Parameter(torch.zeros(size))
        self.log_sharpness = torch.nn.Parameter(torch.tensor(math.log(SHARPNESS)))

    def forward(
        self,
        speech: torch.Tensor,
        lens: torch.Tensor,
        tokens: torch.Tensor,
        token_lens: torch.Tensor,
        embed: Callable[[torch.Tensor], torch.Tensor],
    ) -> Aligned:
        """Compare the projector's embeddings with the transcripts'.

        Args:
            speech: (B, T, D).
            lens: Valid embeddings (B,).
            tokens: (B, L), anything behind the lengths.
            token_lens: Valid tokens (B,).
            embed: Gives the LM's embeddings (C, D) of token ids (C,), as its first layer reads them.
        """
        valid = torch.arange(tokens.size(1), device=tokens.device) < token_lens.unsqueeze(1)
        ids, classes = torch.unique(tokens[valid], return_inverse=True)
        # Class 0 is the blank.
        targets = torch.zeros_like(tokens).masked_scatter(valid, classes + 1)
        log_probs = self._logits(speech.float(), embed(ids).detach().float()).log_softmax(-1)
        losses = functional.ctc_loss(
            log_probs.transpose(0, 1), targets, lens, token_lens, reduction="none", zero_infinity=True
        )
        repeats = (targets[:, 1:] == targets[:, :-1]) & valid[:, 1:]
        has_no_room = token_lens + repeats.sum(1) > lens
        accuracy = _accuracy(log_probs.argmax(-1), lens, targets, token_lens)
        return Aligned(losses.mean(), accuracy.to(speech.device), has_no_room.float().mean())

    def _logits(self, speech: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """Likelihoods by distance (B, T, 1 + C): half the squared distance in units of the embeddings' mean square."""
        scale = self.log_sharpness.exp() / embeddings.square().sum(-1).mean().clamp(min=1e-10)
        table = torch.cat([self.blank.unsqueeze(0), embeddings])
        # |s - e|^2 without |s|^2, which is the same for all classes.
        return scale * (speech @ table.T - table.square().sum(-1) / 2)


def _accuracy(best: torch.Tensor, lens: torch.Tensor, targets: torch.Tensor, target_lens: torch.Tensor) -> torch.Tensor:
    from torchaudio.functional import edit_distance

    errors = 0
    for row, length, target, target_length in zip(best, lens.tolist(), targets, target_lens.tolist(), strict=True):
        found = torch.unique_consecutive(row[:length])
        errors += edit_distance(found[found > 0].tolist(), target[:target_length].tolist())
    return torch.tensor(max(0.0, 1.0 - errors / max(1, int(target_lens.sum()))))
