"""A start for the projector: its embeddings become those of the transcript's tokens, before the LM is asked.

CTC whose classes are the LM's own embeddings finds which embeddings of speech are whose: the nearer to a token's,
behind a linear map, the more likely is the token. Each is then drawn to the embeddings of what CTC takes it for, and
to that of a space where nothing is said. CTC alone would part the classes, and leave open how long an embedding is
and what all have in common, while a frozen LM has read no embeddings but its own. The map leaves each of the two
losses its way. A step costs no pass through the LM. Classes are the tokens of the batch, so that a vocabulary of
262,144 costs nothing.
Ours; related are embeddings by posteriors (Ma et al., "LegoSLM", arXiv:2505.11352) and optimal transport between frames
and text.
Shapes: B utterances, T embeddings of speech, D size of the LM, L tokens, C classes.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from espnet_larm.speech_llm.losses.ctc import ctc_losses, occupancies

# The difference in logits between a token's own embedding and another token's, at the start.
SHARPNESS = 10.0


class Aligned(NamedTuple):
    """Loss and figures of a batch.

    Attributes:
        loss: Mean over utterances of CTC's loss and the sum of distances, with gradient.
        distance: Mean squared distance to what CTC takes an embedding for, in units of the tokens' mean square.
        accuracy: 1 less the token error rate of the likeliest classes, among the tokens of the batch; 0 at least.
        without_room: Share of utterances with fewer embeddings than CTC needs; they teach nothing.
    """

    loss: torch.Tensor
    distance: torch.Tensor
    accuracy: torch.Tensor
    without_room: torch.Tensor


def check_alone(decoder: torch.nn.Module, alignment_weight: float, mwer_weight: float) -> None:
    """Refuse an alignment without the LM where a pass through the LM would teach more.

    Raises:
        ValueError: The alignment has no weight, or more than the projector learns.
    """
    if alignment_weight == 0:
        raise ValueError("model_conf: alignment_only is true, and alignment_weight 0; set it above 0, 1.0 say.")
    learning = [name for name, each in decoder.named_parameters() if each.requires_grad]
    if mwer_weight > 0 or any(not name.startswith("projector.") for name in learning):
        raise ValueError(
            "model_conf: alignment_only teaches the projector alone; set decoder_conf: adaptation: frozen and "
            "num_heads: 1, and mwer_weight: 0."
        )


class Alignment(torch.nn.Module):
    """The loss, with what it learns.

    Args:
        size: D.
        none: Token that stands where nothing is said.
    """

    def __init__(self, size: int, none: int) -> None:
        super().__init__()
        self.none = none
        self.map = torch.nn.Linear(size, size)
        torch.nn.init.eye_(self.map.weight)
        torch.nn.init.zeros_(self.map.bias)
        # CTC's own class for none.
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
        table = embed(torch.cat([ids.new_tensor([self.none]), ids])).detach().float()  # (C, D)
        # Class 0 is none.
        targets = torch.zeros_like(tokens).masked_scatter(valid, classes + 1)
        unit = table[1:].square().sum(-1).mean().clamp(min=1e-10)
        own = torch.cat([self.blank.unsqueeze(0), table[1:]])
        # Half the squared distance, less what is the same for all classes.
        likeness = self.map(speech.float()) @ own.T - own.square().sum(-1) / 2
        log_probs = (self.log_sharpness.exp() / unit * likeness).log_softmax(-1)
        losses = ctc_losses(log_probs, targets, lens, token_lens)

        repeats = (targets[:, 1:] == targets[:, :-1]) & valid[:, 1:]
        has_room = token_lens + repeats.sum(1) <= lens
        counts = (torch.arange(speech.size(1), device=lens.device) < lens.unsqueeze(1)) & has_room.unsqueeze(1)
        wanted = occupancies(log_probs, targets, lens, token_lens) @ table  # (B, T, D)
        distances = (speech.float() - wanted).square().sum(-1).masked_fill(~counts, 0.0) / unit
        return Aligned(
            losses.mean() + distances.sum() / len(speech),
            distances.detach().sum() / counts.sum().clamp(min=1),
            _accuracy(log_probs.argmax(-1), lens, targets, token_lens).to(speech.device),
            (~has_room).float().mean(),
        )


def _accuracy(best: torch.Tensor, lens: torch.Tensor, targets: torch.Tensor, target_lens: torch.Tensor) -> torch.Tensor:
    from torchaudio.functional import edit_distance

    errors = 0
    for row, length, target, target_length in zip(best, lens.tolist(), targets, target_lens.tolist(), strict=True):
        found = torch.unique_consecutive(row[:length])
        errors += edit_distance(found[found > 0].tolist(), target[:target_length].tolist())
    return torch.tensor(max(0.0, 1.0 - errors / max(1, int(target_lens.sum()))))
