"""Encoder output to hypotheses by an LM: greedy, in batches, with a bound on the length of each text.

An LM may repeat itself without end. A text has as many tokens a second of speech as nobody speaks, at most; one that
reaches the bound is marked, not hidden.
Shapes: B utterances, T frames, E encoder size.
"""

import torch

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.inference.transcripts import Hypothesis, Search
from espnet_larm.inference.words import FrameTimes
from espnet_larm.search.greedy_text import greedy

# Fast speech has 7 syllables a second; a tokenizer that knows a language needs one or two tokens for each, one that
# spells it about 20.
TOKENS_PER_SECOND = 24
LEAST_TOKENS = 8


class LlmSearcher:
    """A model's LM and its tokens.

    Args:
        model: In eval mode, with a `speech_llm` decoder.

    Attributes:
        num_calls: Of the LM so far, prefills included.
    """

    def __init__(self, model: ESPnetASRModel) -> None:
        self.model = model
        self.num_calls = 0

    def find(
        self, hs_pad: torch.Tensor, hlens: torch.Tensor, search: Search, frame_times: FrameTimes
    ) -> list[list[Hypothesis]]:
        """The best hypothesis of each utterance.

        Args:
            hs_pad: Encoder output (B, T, E).
            hlens: Valid frames (B,).
            search: Greedy; anything else is refused.
            frame_times: Frames to seconds.

        Raises:
            ValueError: A beam is asked for, or an utterance is longer than the LM's context.
        """
        if search.beam_size != 1:
            raise ValueError(
                f"beam_size is {search.beam_size}; allowed with an LM as decoder: 1, which is greedy search."
            )
        decoder = self.model.decoder
        texts = decoder.start(hs_pad, hlens)
        seconds = hlens.cpu().float() * frame_times.factor * frame_times.hop_s
        limits = (LEAST_TOKENS + TOKENS_PER_SECOND * seconds).long()
        room = (decoder.backbone.max_positions - texts.next_positions).clamp(min=0)
        found = greedy(texts, torch.minimum(limits, room), self.model.eos)
        self.num_calls += found.num_calls
        rows = zip(found.token_ids, found.scores, found.is_ended, strict=True)
        return [[self._hypothesis(*row)] for row in rows]

    def _hypothesis(self, token_ids: list[int], score: float, is_ended: bool) -> Hypothesis:
        text = self.model.decoder.tokenizer.decode(token_ids, skip_special_tokens=True).strip()
        tokens = [self.model.token_list[token_id] for token_id in token_ids]
        return Hypothesis(" ".join(text.split()), tokens, token_ids, score, is_ended=is_ended)
