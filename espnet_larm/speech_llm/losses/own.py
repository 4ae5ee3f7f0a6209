"""Targets of draft heads that are the LM's own: what greedy search finds in the same encoder output, not the reference.

A draft is accepted if it is what the LM says next, right or wrong. Behind a word that the LM gets wrong, a reference
teaches what the LM will not say. The search runs at each step, so that targets follow an LM that learns as well; the
heads themselves draft for it, and their drafts are verified, so that it takes fewer calls the better they are and finds
the same tokens in any case.
Shapes: B utterances, T frames, E encoder size, L tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_larm.search.drafts import HeadDrafts
from espnet_larm.search.hypotheses import Ending
from espnet_larm.search.multi_token import greedy
from espnet_larm.speech_llm.losses.mwer import bounds_near, evaluating
from espnet_larm.upstream import add_sos_eos

REFERENCE, OWN = TARGETS = ("reference", "own")


class OwnTexts(NamedTuple):
    """Hypotheses as a loss reads them.

    Attributes:
        ys_in_pad: Start symbol and tokens (B, L + 1), any token behind them.
        ys_in_lens: Valid entries of ys_in_pad (B,), the start symbol counted.
        ys_out_pad: Tokens and end (B, L + 1), ignore_id behind them and in place of an end that the LM did not say.
    """

    ys_in_pad: torch.Tensor
    ys_in_lens: torch.Tensor
    ys_out_pad: torch.Tensor


def find_own(
    decoder: Any, hs_pad: torch.Tensor, hlens: torch.Tensor, num_tokens: Sequence[int], eos: int, ignore_id: int
) -> OwnTexts:
    """Search without gradient and without dropout; no random number is drawn, and the decoder is left as it was.

    Args:
        decoder: A `speech_llm` with draft heads.
        hs_pad: Encoder output (B, T, E).
        hlens: Valid frames (B,).
        num_tokens: Tokens of each utterance's reference, which bound the length of its hypothesis.
        eos: The token that ends a hypothesis.
        ignore_id: Padding, no token.
    """
    num_heads = decoder.heads.num_heads
    with torch.no_grad(), evaluating(decoder):
        begun = decoder.start(hs_pad.detach(), hlens)
        drafts = HeadDrafts(lambda hidden: decoder.draft_logits(hidden, num_heads), eos)
        bounds = bounds_near(decoder, begun, num_tokens)
        # Repetitions stay: they are the LM's own, too.
        found = greedy(begun, bounds, eos, drafts, guards_loops=False).hypotheses
    texts = [torch.tensor(each.token_ids, dtype=torch.long, device=hs_pad.device) for each in found]
    lens = torch.tensor([len(text) for text in texts], device=hs_pad.device)
    padded = pad_sequence(texts, batch_first=True, padding_value=ignore_id)
    ys_in_pad, ys_out_pad = add_sos_eos(padded, eos, eos, ignore_id)
    was_cut = torch.tensor([each.ending is not Ending.BY_ITSELF for each in found], device=hs_pad.device)
    ys_out_pad[was_cut, lens[was_cut]] = ignore_id
    return OwnTexts(ys_in_pad, lens + 1, ys_out_pad)
