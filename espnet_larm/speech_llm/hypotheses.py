"""Hypotheses that an LM writes behind the prompts of a batch: searches step, keep and take them back.

Shapes: B rows, L positions, D model size of the LM, V tokens.
"""

import torch

from espnet_larm.llm.backbone import Backbone
from espnet_larm.pooling.in_llm import AtInput, SpeechPooling
from espnet_larm.speech_llm.prompt import Packed


def positions_of(packed: Packed) -> torch.Tensor:
    """Positions counted from each row's start (B, N)."""
    num_rows, num_positions = packed.speech.shape
    return torch.arange(num_positions, device=packed.lens.device).expand(num_rows, -1)


class Hypothesis:
    """A row of `SpeechHypotheses` at one step, as ESPnet's search hands it around."""

    def __init__(self, texts: "SpeechHypotheses", row: int) -> None:
        self.texts = texts
        self.row = row
        self.num_steps = texts.num_steps


class SpeechHypotheses:
    """Hypotheses of a batch of utterances that the LM has begun; its `HypothesisModel` for the searches.

    Args:
        backbone: The LM.
        prompt: The prompt of each utterance.
        pooling: The pooling of its speech behind a layer.
        at_input: What pooling at the input gave.

    Attributes:
        hidden: Hidden states of the last valid position of each row (B, D), which draft heads read.
        num_steps: Calls of `step` so far.
        kept: What pooling left of the prompts' speech, by site.
    """

    def __init__(
        self, backbone: Backbone, prompt: Packed, pooling: SpeechPooling | None = None, at_input: AtInput | None = None
    ) -> None:
        pooling = SpeechPooling() if pooling is None else pooling
        kept, path = (None, None) if at_input is None else (at_input.kept, at_input.path)
        self.backbone = backbone
        self.cache = backbone.new_cache()
        stream = backbone(
            prompt.embeddings, positions_of(prompt), prompt.lens, prompt.speech, self.cache, pooling.after_layer(path)
        )
        self.kept = pooling.kept(kept, prompt.speech, stream.speech)
        self.cache.seal()
        self.hidden = _last(stream.hidden, stream.lens)
        # Positions are counted here and not by the cache, whose layers may hold fewer.
        self.next_positions = prompt.lens.cpu()
        self.num_steps = 0

    @property
    def logits(self) -> torch.Tensor:
        """Logits of the next token of each row (B, V)."""
        return self.backbone.logits(self.hidden)

    def logits_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, (..., D) to (..., V)."""
        return self.backbone.logits(hidden)

    def step(self, tokens: torch.Tensor, num_new: torch.Tensor) -> torch.Tensor:
        """Go on with tokens (B, L), L of 1 or more, of which num_new (B,) are valid; the logits after each (B, L, V).

        Raises:
            ValueError: A row grows beyond the LM's context.
        """
        return self.backbone.logits(self.read(tokens, num_new))

    def read(self, tokens: torch.Tensor, num_new: torch.Tensor) -> torch.Tensor:
        """Go on as `step` does; the hidden states after each token (B, L, D)."""
        assert tokens.size(1) >= 1
        num_new = num_new.cpu()
        after = self.next_positions + num_new
        if int(after.max()) > self.backbone.max_positions:
            raise ValueError(
                f"a hypothesis has grown to {int(after.max())} positions, prompt included, more than the "
                f"{self.backbone.max_positions} of the LM's context."
            )
        # Positions and lengths stay on the CPU, as in the cache, where no step waits for a GPU.
        positions = self.next_positions.unsqueeze(1) + torch.arange(tokens.size(1))
        stream = self.backbone(self.backbone.embed(tokens), positions, num_new, cache=self.cache)
        # A row without a new token keeps its last state.
        last = _last(stream.hidden, num_new.clamp(min=1).to(tokens.device, non_blocking=True))
        self.hidden = torch.where((num_new > 0).to(last.device, non_blocking=True).unsqueeze(1), last, self.hidden)
        self.next_positions = after
        self.num_steps += 1
        return stream.hidden

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (B',), on the CPU, in this order, some perhaps several times."""
        self.cache.select(rows)
        self.next_positions = self.next_positions[rows]
        self.hidden = self.hidden[rows.to(self.hidden.device, non_blocking=True)]

    def give_back(self, num_tokens: torch.Tensor, hidden: torch.Tensor) -> None:
        """Forget the last tokens (B,) of each row.

        Args:
            num_tokens: At most those that a row has, on the CPU.
            hidden: States of the positions that are the last then (B, D).
        """
        lens = self.cache.text_lens[0] - num_tokens
        assert int(lens.min()) >= 0
        self.next_positions = self.next_positions - num_tokens
        self.cache.crop(lens)
        self.hidden = hidden


def _last(hidden: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """The states of each row's last valid position: (B, L, D) to (B, D)."""
    return hidden.gather(1, (lens - 1).view(-1, 1, 1).expand(-1, -1, hidden.size(2)))[:, 0]
