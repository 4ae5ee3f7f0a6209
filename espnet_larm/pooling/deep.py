"""Pooling of a prompt's speech inside an LM, by the hidden states behind one of its layers.

Later layers then read, remember and attend to fewer speech positions. Prefix, suffix and text stay as they are and
keep their positions for the rotary embedding; a merged token has that of its group's first.
Source: Xiang et al., arXiv:2604.06871, where the deep layer of 32 is the 29th.
Departures: A-ToMe compares the same hidden states; the keys of the layer behind are not computed for it.
Shapes: B rows, L positions, S speech positions, S' pooled ones, D model size. Masks are True where valid.
"""

from collections.abc import Callable
from functools import partial

import torch

from espnet_larm.llm.stream import Stream
from espnet_larm.pooling.affinity import Pooled, take
from espnet_larm.pooling.options import Pooling
from espnet_larm.pooling.weights import CtcPath

# Where an LM's speech is pooled, in the order in which it passes.
INPUT, DEEP = PLACES = ("input", "deep")


def pool_deep(pooling: Pooling, stream: Stream, path: CtcPath | None = None) -> Stream:
    """Shorten the speech of each row of a prompt, behind a layer; a row without speech stays as it is.

    Args:
        pooling: How it is shortened.
        stream: The prompt.
        path: What a CTC head recognises in the speech (B, S), where pooling needs it.
    """
    if stream.speech is None or pooling.is_off:
        return stream
    lens = stream.speech.sum(dim=1)
    longest = int(lens.max())
    if not longest:
        return stream
    pool = partial(pooling, path=None if path is None else path.first(longest))
    return _pool_speech(stream, lens, longest, pool)[0]


def _pool_speech(
    stream: Stream,
    speech_lens: torch.Tensor,
    longest: int,
    pooling: Callable[[torch.Tensor, torch.Tensor], Pooled],
) -> tuple[Stream, torch.Tensor]:
    """Merge within each row's run of speech, and close the gaps.

    Args:
        stream: A stream with one run of speech a row, or none.
        speech_lens: Lengths of the runs (B,).
        longest: S, of 1 or more.
        pooling: What merges, from speech (B, S, D) and its lengths (B,).

    Returns:
        The stream and the pooled lengths (B,).
    """
    assert stream.speech is not None
    width, device = stream.hidden.size(1), stream.hidden.device
    first = stream.speech.to(torch.uint8).argmax(dim=1).unsqueeze(1)  # (B, 1)
    spoken = take(stream.hidden, (first + torch.arange(longest, device=device)).clamp(max=width - 1))  # (B, S, D)
    pooled = pooling(spoken, speech_lens)
    pooled_lens = pooled.lens.unsqueeze(1)
    lens = stream.lens - speech_lens + pooled.lens
    # Where each new column comes from: of what there was, or behind it, of what is pooled.
    columns = torch.arange(int(lens.max()), device=device)
    places = columns - first  # (B, L')
    is_speech = (places >= 0) & (places < pooled_lens)
    gaps = speech_lens.unsqueeze(1) - pooled_lens
    old = torch.where(places >= pooled_lens, columns + gaps, columns).clamp(max=width - 1)
    sources = torch.where(is_speech, width + places, old)
    firsts = stream.positions.gather(1, (first + pooled.starts).clamp(max=width - 1))  # (B, S')
    made = Stream(
        hidden=take(torch.cat([stream.hidden, pooled.tokens], dim=1), sources),
        positions=torch.cat([stream.positions, firsts], dim=1).gather(1, sources),
        lens=lens,
        speech=is_speech,
    )
    return made, pooled.lens
