"""Log-probabilities under CTC of all hypotheses that begin with a prefix, for many prefixes of many utterances at once.

A prefix is extended by several tokens in one call: an LM's token may be spelled by several of the CTC head's. The
recursions over frames are linear, hence two cumulative sums a token instead of a loop over frames; in float64, where
that is exact to 1e-9 for minutes of audio.
Source: Watanabe et al., "Hybrid CTC/Attention Architecture for End-to-End Speech Recognition" (2017), algorithm 2.
Shapes: B utterances, T frames, V tokens, N prefixes, K extensions of each prefix, M tokens of the longest extension.
"""

from typing import NamedTuple

import torch

from espnet_larm.search.ctc.posteriors import PAD

NOTHING = float("-inf")


class Prefixes(NamedTuple):
    """Prefixes, each at all frames.

    Attributes:
        token: Log-probability (..., T) of the prefix up to a frame, by alignments that end in its last token.
        blank: By those that end in a blank.
        last: The last token (...,), PAD for the empty prefix.
        score: Log-probability (...,) of all hypotheses that begin with the prefix; the empty prefix has 0.
    """

    token: torch.Tensor
    blank: torch.Tensor
    last: torch.Tensor
    score: torch.Tensor

    def pick(self, rows: torch.Tensor) -> "Prefixes":
        """The fields of these rows, along the first dimension."""
        return Prefixes(*(field[rows] for field in self))


class CtcPrefixScores:
    """The CTC head's view of a batch.

    Args:
        log_probs: Log-probabilities (B, T, V) of tokens at frames.
        lens: Valid frames (B,), 1 to T.
        blank: Id of the blank.
    """

    def __init__(self, log_probs: torch.Tensor, lens: torch.Tensor, blank: int = 0) -> None:
        frames = torch.arange(log_probs.size(1), device=log_probs.device)
        is_padding = frames >= lens.to(log_probs.device).unsqueeze(1)
        # A frame of padding is a certain blank, which changes no score.
        padded = log_probs.double().masked_fill(is_padding.unsqueeze(2), NOTHING)
        padded[:, :, blank] = padded[:, :, blank].masked_fill(is_padding, 0.0)
        self.blank = padded[:, :, blank].clone()
        # No hypothesis holds a blank, whatever an LM that shares the tokens may say.
        padded[:, :, blank] = NOTHING
        self.log_probs = padded

    def start(self) -> Prefixes:
        """The empty prefix of each utterance (B,)."""
        blank = self.blank.cumsum(1)
        last = torch.full((len(blank),), PAD, device=blank.device)
        return Prefixes(torch.full_like(blank, NOTHING), blank, last, blank.new_zeros(len(blank)))

    def extend(self, prefixes: Prefixes, utterances: torch.Tensor, extensions: torch.Tensor) -> Prefixes:
        """Put tokens after prefixes.

        Args:
            prefixes: (N,).
            utterances: The utterance (N,) of each prefix.
            extensions: Token ids (N, K, M), PAD behind those of a shorter extension.

        Returns:
            Prefixes (N, K).
        """
        num_extensions = extensions.size(1)
        found = Prefixes(*(field.unsqueeze(1).expand(-1, num_extensions, *field.shape[1:]) for field in prefixes))
        for tokens in extensions.unbind(2):
            found = self._append(found, utterances, tokens)
        return found

    def ended(self, prefixes: Prefixes) -> torch.Tensor:
        """Log-probabilities (...,) of the hypotheses that are the prefixes and no more."""
        return torch.logaddexp(prefixes.token[..., -1], prefixes.blank[..., -1])

    def _append(self, before: Prefixes, utterances: torch.Tensor, tokens: torch.Tensor) -> Prefixes:
        """One token (N, K) after each prefix (N, K), none where it is PAD."""
        is_none = tokens == PAD
        here = self.log_probs[utterances.unsqueeze(1), :, tokens.clamp(min=0)]  # (N, K, T)
        blank = self.blank[utterances].unsqueeze(1)  # (N, 1, T)
        # A token after itself needs a blank between.
        ends = torch.where(
            (before.last == tokens).unsqueeze(2), before.blank, torch.logaddexp(before.token, before.blank)
        )
        # What can be gone on from at frame t is what ended at t - 1; before the first frame, the empty prefix alone.
        nothing_yet = torch.where(before.last == PAD, 0.0, NOTHING).to(ends.dtype).unsqueeze(2)
        starts = torch.cat((nothing_yet, ends[:, :, :-1]), dim=2)
        token = _accumulate(starts + here, here)
        later = torch.cat((torch.full_like(nothing_yet, NOTHING), token[:, :, :-1]), dim=2)
        after = Prefixes(token, _accumulate(later + blank, blank), tokens, (starts + here).logsumexp(2))
        return Prefixes(
            *(
                torch.where(is_none.view(*is_none.shape, *[1] * (old.dim() - 2)), old, new)
                for old, new in zip(before, after, strict=True)
            )
        )


def _accumulate(entering: torch.Tensor, staying: torch.Tensor) -> torch.Tensor:
    """r(t) = logaddexp(r(t - 1) + staying(t), entering(t)) over the last dimension, r(-1) = -inf.

    Where `staying` is -inf nothing before survives; a floor far below all probabilities stands for it, because
    differences of infinities are no numbers.
    """
    total = staying.clamp(min=-1e5).cumsum(-1)
    return (entering - total).logcumsumexp(-1) + total
